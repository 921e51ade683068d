import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from object_discovery import GNM, GNMParams
from object_discovery.configs import read_config
from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.likelihood import total_log_prob
from object_discovery.models.gnm.struct_draw import GlobalLatent
from object_discovery.train import main
from tests.models.tiny import SIZE, SLOTS, TINY, make_data, make_images, make_trainer

KL_TERMS = (
    *("kl_presence", "kl_where", "kl_depth", "kl_what", "kl_background", "kl_global"),
    *("aux_presence", "aux_where", "aux_depth", "aux_what", "aux_background"),
)


def make_gnm(**settings: Any) -> GNM:
    torch.manual_seed(0)
    return GNM(**{**TINY["gnm"], **settings})


def test_parameter_count_is_that_published() -> None:
    assert sum(parameter.numel() for parameter in GNM.from_config("gnm_clevr6").parameters()) == 8_636_446


PUBLISHED = {
    "resolution": 128,
    "grid": 4,
    "hidden_size": 128,
    "glimpse_size": 64,
    "what_size": 64,
    "background_size": 10,
    "global_size": 32,
    "global_steps": 4,
    "optimizer": "rmsprop",
    "lr": 1e-4,
    "clip_norm": 1.0,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "scale_prior": -1.5,
    "presence_bound": 8.8,
    "forced_alpha_steps": 500,
    "tau": [1.0, 0.5, 1000, 20_000],
    "presence_prior": [0.1, 0.001, 0, 4000],
    "global_kl_weight": [0.0, 1.0, 0, 100_000],
    "where_kl_weight": [10.0, 1.0, 0, 500],
    "background_kl_weight": [50.0, 1.0, 0, 50_000],
    "precision": "32-true",
    "num_slots": 17,
    "scale_std": 0.1,
    "scale_init": -1.0,
    "encoder_shortcut": False,
    "disc_init": False,
    "bound_fraction": [1.0, 1.0, 0, 0],
    "background_margin": None,
    "background_steps": 0,
    "noise_scale": [1.0, 1.0, 0, 0],
    "kl_weight": [1.0, 1.0, 0, 0],
}


@pytest.mark.parametrize(
    ("name", "sigma", "batch_size"), [("gnm_clevr6", 0.4, 64), ("gnm_clevrtex", 0.5, 32), ("gnm_ravens", 0.2, 64)]
)
def test_configs_have_the_published_settings(name: str, sigma: float, batch_size: int) -> None:
    config = read_config(name)
    expected = {**PUBLISHED, "sigma": sigma, "batch_size": batch_size}
    assert {key: config.get(key) for key in expected} == expected


@pytest.mark.parametrize(("resolution", "grid"), [(32, 4), (64, 8), (35, 4), (24, 3)])
def test_output_shapes_for_resolutions_and_grids(resolution: int, grid: int) -> None:
    model = make_gnm(resolution=resolution, grid=grid, num_slots=grid**2 + 1, glimpse_size=None)
    discovery = model(torch.rand(1, 3, resolution, resolution))
    assert discovery.masks.shape == (1, grid**2 + 1, resolution, resolution)
    assert model.sample(1).image.shape == (1, 3, resolution, resolution)


def test_elbo_and_loss_are_sums_of_the_logged_terms(tmp_path: Path) -> None:
    flags = {**TINY["gnm"], "dataset": "tetrominoes", "max_steps": 3, "log_interval": 1, "out": tmp_path / "run"}
    flags |= {"accelerator": "cpu", "precision": "32-true", "num_workers": 0, "batch_size": 2, "val_size": 2}
    flags |= {"kl_weight": "[0.5, 0.5, 0, 0]", "where_kl_weight": "[10, 1, 0, 500]"}
    flags |= {"num_pictures": 0, "global_kl_weight": "[0.5, 0.5, 0, 0]", "background_kl_weight": "[3, 3, 0, 0]"}
    main(["--model_type=gnm", *(f"--{name}={value}" for name, value in flags.items())])
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rows) == 3
    for step, row in enumerate(rows):
        names = ("loss", "elbo", "nll", "background_nll", "objects", *KL_TERMS)
        values = {name: float(row[f"train/{name}"]) for name in names}
        negative_elbo = values["nll"] + sum(values[name] for name in KL_TERMS[:6])
        assert values["elbo"] == pytest.approx(-negative_elbo, rel=1e-5)
        weights = dict.fromkeys(KL_TERMS, 0.5) | {"kl_global": 0.25, "aux_where": 5 - 4.5 * step / 500}
        weights |= {"aux_presence": 1.0, "aux_background": 3.0}
        total = values["nll"] + values["background_nll"] + sum(values[name] * weights[name] for name in KL_TERMS)
        assert values["loss"] == pytest.approx(total, rel=1e-5)
        assert 0 <= values["objects"] <= 4


def test_count_accuracy_of_a_test_run() -> None:
    class ConstantCount(GNM):
        """Counts three objects in each image, the number in Tetrominoes."""

        def count_objects(self, images: Tensor) -> Tensor:
            return torch.full((len(images),), 3)

    torch.manual_seed(0)
    model = ConstantCount(**TINY["gnm"])
    assert make_trainer(1).test(model, make_data(), verbose=False)[0]["test/count_accuracy"] == 1
    other = make_gnm()
    other.head.presence.bias.data.fill_(100)  # an object in each of the four cells
    assert other.count_objects(make_images()).tolist() == [4, 4]
    assert make_trainer(1).test(other, make_data(), verbose=False)[0]["test/count_accuracy"] == 0


def test_image_without_objects_is_the_background() -> None:
    model, images = make_gnm(), make_images()
    model.head.presence.bias.data.fill_(-100)
    model.head.presence.weight.data.zero_()
    scene = model.decompose(images)
    background = model.background.decode(model.background.infer(model.encoder(images)).mean)
    torch.testing.assert_close(scene.image, background)
    torch.testing.assert_close(scene.discovery.masks[:, -1], torch.ones(2, SIZE, SIZE))
    assert scene.counts.tolist() == [0, 0]


def test_separately_trained_background_gets_its_gradient_from_its_own_loss_only() -> None:
    model = make_gnm(background_steps=0, background_margin=0.1)
    decoder = [
        parameter
        for name, parameter in model.background.named_parameters()
        if not name.startswith(("prior", "posterior"))
    ]
    losses = model.losses({"image": make_images()})
    for name, has_gradient in (("nll", False), ("background_nll", True)):
        gradients = torch.autograd.grad(losses[name], decoder, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [has_gradient] * len(decoder)
    assert "background_nll" not in make_gnm(background_margin=None).losses({"image": make_images()})


def test_no_objects_during_background_steps() -> None:
    batch = {"image": make_images()}
    assert make_gnm(background_steps=1).losses(batch)["objects"] == 0
    assert make_gnm(background_steps=0).losses(batch)["objects"] > 0


@pytest.mark.parametrize("num_slots", [0, 6])
def test_number_of_slots_is_at_most_cells_plus_one(num_slots: int) -> None:
    with pytest.raises(ValueError, match=f"`num_slots` to be from 1 to 5, but got {num_slots}"):
        make_gnm()(make_images(), num_slots=num_slots)
    assert make_gnm(num_slots=6)(make_images()).masks.shape[1] == 5


def test_decompose_from_the_global_latent_equals_the_mode_of_a_sample() -> None:
    model = make_gnm()
    scene = model.decompose(make_images(), from_global_latent=True)
    assert scene.latent is not None
    again = model.sample(2, mode=True, latent=scene.latent)
    torch.testing.assert_close(scene.image, again.image)


def test_samples_vary_and_the_mode_given_the_global_latent_does_not() -> None:
    model = make_gnm()
    first = model.sample(2)
    assert first.latent is not None
    samples = [model.sample(2, latent=first.latent).image for _ in range(2)]
    assert not torch.equal(*samples)
    modes = [model.sample(2, mode=True, latent=first.latent).image for _ in range(2)]
    assert torch.equal(*modes)
    assert not torch.equal(model.sample(2, mode=True).image, modes[0])  # z_g is sampled
    assert first.discovery.masks.shape == (2, SLOTS, SIZE, SIZE)
    assert model.sample(2, num_slots=2).discovery.masks.shape == (2, 2, SIZE, SIZE)


def test_pictures_are_boxes_and_samples() -> None:
    model = make_gnm()
    images = make_images()
    pictures = model.pictures(images, model(images))
    assert pictures.keys() == {"boxes", "samples"}
    assert pictures["samples"].shape == (2, 3, SIZE, SIZE)


def test_resample_steps_of_a_global_latent() -> None:
    model = make_gnm()
    first = model.sample(2).latent
    assert first is not None
    latent = model.sample(2, latent=first, resample_steps=(0,)).latent
    assert latent is not None
    assert (latent == first).all(2).tolist() == [[False, True]] * 2
    with pytest.raises(ValueError, match=r"`resample_steps` to be steps of `latent` below 2, but got \(2,\)"):
        model.sample(2, latent=first, resample_steps=(2,))
    with pytest.raises(ValueError, match="`resample_steps` to be steps of `latent`"):
        model.sample(2, resample_steps=(0,))
    with pytest.raises(ValueError, match=r"`latent` to be of shape \(3, 2, 4\), but got \(2, 2, 4\)"):
        model.sample(3, latent=first)


def test_log_likelihood_increases_with_particles_and_exceeds_the_elbo() -> None:
    model, images = make_gnm(), make_images()
    model.head.presence.bias.data.fill_(100)  # so that relaxed and hard z_pres agree
    torch.manual_seed(1)
    one = torch.stack([model.log_likelihood(images, 1) for _ in range(15)])
    many = model.log_likelihood(images, 15)
    assert (many > one.mean(0)).all()
    assert (many <= one.max(0).values + 3 * one.std(0)).all()
    with torch.no_grad():
        elbos = torch.stack([model.score_batch({"image": images})[1]["elbo"] for _ in range(15)])
    torch.testing.assert_close(one.mean(0), elbos.mean(0), rtol=0.05, atol=4 * float(one.std() / 15**0.5))
    with pytest.raises(ValueError, match="`num_particles` to be at least 1, but got 0"):
        model.log_likelihood(images, 0)


def with_posterior_of_prior(latent: GlobalLatent) -> GlobalLatent:
    return latent._replace(posterior=latent.prior)


def test_log_likelihood_is_exact_if_the_posterior_equals_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a constant image and posteriors equal to the priors, only the Gaussian likelihood of the pixels remains."""
    model, images = make_gnm(sigma=0.5, cluster_init=False), make_images()
    head, infer = model.head.forward, model.global_latent.forward
    unit = Gaussian(torch.zeros(2, 4), torch.ones(2, 4))
    patches: list[tuple[Any, str, Any]] = [
        (model.head, "forward", lambda features, *_: head(torch.zeros_like(features))),
        (model.glimpses, "forward", lambda what: torch.zeros(len(what), 4, 8, 8)),
        (model.background, "decode", lambda latent: torch.full((len(latent), 3, SIZE, SIZE), 0.25)),
        (model.background, "infer", lambda features: unit),
        (model.background, "conditional_prior", lambda latent: unit),
        (model.global_latent, "forward", lambda features: with_posterior_of_prior(infer(features))),
    ]
    for module, name, value in patches:
        monkeypatch.setattr(module, name, value)
    pixels = Gaussian(torch.full_like(images, 0.25), torch.full_like(images, 0.5))
    torch.testing.assert_close(model.log_likelihood(images, 3), total_log_prob(pixels, images), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("optimizer", "cls"), [("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)])
def test_optimiser_and_warmup(optimizer: str, cls: type[Any]) -> None:
    model = make_gnm(optimizer=optimizer, lr=0.01, lr_schedule="constant", warmup_steps=4)
    trainer = make_trainer(3)
    trainer.fit(model, make_data())
    (fitted,) = trainer.optimizers
    assert isinstance(fitted, cls)
    assert fitted.param_groups[0]["lr"] == pytest.approx(0.01 * 3 / 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "`sigma` to be positive"),
        ({"presence_bound": 0.0}, "`presence_bound` to be positive"),
        ({"glimpse_size": 24}, "`glimpse_size` to be a power of two from 4 on, but got 24"),
        ({"scale_std": 0.0}, "`scale_std` to be positive"),
        ({"background_margin": 0.0}, "`background_margin` to be positive or None"),
        ({"background_steps": -1}, "`background_steps` to be at least 0"),
        ({"tau": [1.0, 0.5]}, r"`tau` to be \[start, end, first step, last step\]"),
        ({"where_kl_weight": [1.0, 1.0, 5, 2]}, r"`where_kl_weight` to be \[start, end, first step, last step\]"),
        ({"global_kl_weight": [-1.0, 1.0, 0, 2]}, "`global_kl_weight` to be at least 0 throughout"),
        ({"tau": [1.0, 0.0, 0, 2]}, "`tau` to be above 0"),
        ({"presence_prior": [0.1, 0.0, 0, 2]}, "`presence_prior` to be between 0 and 1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GNMParams(**settings)


def test_loss_in_bfloat16_is_close_to_float32() -> None:
    model, batch = make_gnm(), {"image": make_images()}
    losses = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model.losses(batch)["loss"])
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    assert losses[1].dtype == torch.float32
