import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from object_discovery import GNM, GNMParams
from object_discovery.models.configs import read_config
from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.likelihood import total_log_prob
from object_discovery.models.gnm.prior import GlobalLatent
from object_discovery.train import main
from tests.models.tiny import SIZE, SLOTS, TINY, make_data, make_images, make_trainer

PARTS = (
    *("kl_presence", "kl_where", "kl_depth", "kl_what", "kl_background", "kl_global"),
    *("aux_presence", "aux_where", "aux_depth", "aux_what", "aux_background"),
)


def make(**settings: Any) -> GNM:
    torch.manual_seed(0)
    return GNM(**{**TINY["gnm"], **settings})


def test_published_number_of_parameters() -> None:
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
    "covered_steps": 500,
    "tau": [1.0, 0.5, 1000, 20_000],
    "presence_prior": [0.1, 0.001, 0, 4000],
    "global_weight": [0.0, 1.0, 0, 100_000],
    "where_weight": [10.0, 1.0, 0, 500],
    "background_weight": [50.0, 1.0, 0, 50_000],
    "precision": "32-true",
    "num_slots": 17,
    "scale_std": 0.1,
    "scale_start": -1.0,
    "shortcut": False,
    "centred": False,
    "presence_reach": [1.0, 1.0, 0, 0],
    "background_margin": None,
    "background_steps": 0,
    "latent_noise": [1.0, 1.0, 0, 0],
    "latent_weight": [1.0, 1.0, 0, 0],
}


@pytest.mark.parametrize(
    ("name", "sigma", "batch_size"), [("gnm_clevr6", 0.4, 64), ("gnm_clevrtex", 0.5, 32), ("gnm_ravens", 0.2, 64)]
)
def test_configs_are_the_published_settings(name: str, sigma: float, batch_size: int) -> None:
    config = read_config(name)
    expected = {**PUBLISHED, "sigma": sigma, "batch_size": batch_size}
    assert {key: config.get(key) for key in expected} == expected


@pytest.mark.parametrize(("resolution", "grid"), [(32, 4), (64, 8), (35, 4), (24, 3)])
def test_resolutions_and_grids(resolution: int, grid: int) -> None:
    model = make(resolution=resolution, grid=grid, num_slots=grid**2 + 1, glimpse_size=None)
    found = model(torch.rand(1, 3, resolution, resolution))
    assert found.masks.shape == (1, grid**2 + 1, resolution, resolution)
    assert model.sample(1).image.shape == (1, 3, resolution, resolution)


def test_the_elbo_and_the_loss_are_the_sums_of_their_logged_parts(tmp_path: Path) -> None:
    flags = {**TINY["gnm"], "dataset": "tetrominoes", "max_steps": 3, "log_interval": 1, "out": tmp_path / "run"}
    flags |= {"accelerator": "cpu", "precision": "32-true", "num_workers": 0, "batch_size": 2, "val_size": 2}
    flags |= {"latent_weight": "[0.5, 0.5, 0, 0]", "where_weight": "[10, 1, 0, 500]"}
    flags |= {"num_pictures": 0, "global_weight": "[0.5, 0.5, 0, 0]", "background_weight": "[3, 3, 0, 0]"}
    main(["--model_type=gnm", *(f"--{name}={value}" for name, value in flags.items())])
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rows) == 3
    for step, row in enumerate(rows):
        values = {
            name: float(row[f"train/{name}"]) for name in ("loss", "elbo", "nll", "background_nll", "objects", *PARTS)
        }
        own = values["nll"] + sum(values[name] for name in PARTS[:6])
        assert values["elbo"] == pytest.approx(-own, rel=1e-5)
        factors = dict.fromkeys(PARTS, 0.5) | {"kl_global": 0.25, "aux_where": 5 - 4.5 * step / 500}
        factors |= {"aux_presence": 1.0, "aux_background": 3.0}
        total = values["nll"] + values["background_nll"] + sum(values[name] * factors[name] for name in PARTS)
        assert values["loss"] == pytest.approx(total, rel=1e-5)
        assert 0 <= values["objects"] <= 4


def test_a_test_says_how_often_the_number_of_objects_is_right() -> None:
    class Counting(GNM):
        """Counts three objects in each image, as Tetrominoes have."""

        def count_objects(self, images: Tensor) -> Tensor:
            return torch.full((len(images),), 3)

    torch.manual_seed(0)
    model = Counting(**TINY["gnm"])
    assert make_trainer(1).test(model, make_data(), verbose=False)[0]["test/count_accuracy"] == 1
    other = make()
    other.head.presence.bias.data.fill_(100)  # an object in each of the four cells
    assert other.count_objects(make_images()).tolist() == [4, 4]
    assert make_trainer(1).test(other, make_data(), verbose=False)[0]["test/count_accuracy"] == 0


def test_without_objects_the_image_is_the_background() -> None:
    model, images = make(), make_images()
    model.head.presence.bias.data.fill_(-100)
    model.head.presence.weight.data.zero_()
    scene = model.scene(images)
    background = model.background.paint(model.background.infer(model.encoder(images)).mean)
    torch.testing.assert_close(scene.image, background)
    torch.testing.assert_close(scene.discovery.masks[:, -1], torch.ones(2, SIZE, SIZE))
    assert scene.counts.tolist() == [0, 0]


def test_a_background_on_its_own_learns_nothing_from_the_objects() -> None:
    model = make(background_steps=0, background_margin=0.1)
    parts = [part for name, part in model.background.named_parameters() if not name.startswith(("prior", "posterior"))]
    losses = model.losses({"image": make_images()})
    for name, wanted in (("nll", False), ("background_nll", True)):
        found = torch.autograd.grad(losses[name], parts, retain_graph=True, allow_unused=True)
        assert [part is not None for part in found] == [wanted] * len(parts)
    assert "background_nll" not in make(background_margin=None).losses({"image": make_images()})


def test_at_first_there_is_only_the_background() -> None:
    batch = {"image": make_images()}
    assert make(background_steps=1).losses(batch)["objects"] == 0
    assert make(background_steps=0).losses(batch)["objects"] > 0


@pytest.mark.parametrize("num_slots", [0, 6])
def test_the_number_of_slots_is_bounded_by_the_cells(num_slots: int) -> None:
    with pytest.raises(ValueError, match=f"`num_slots` to be from 1 to 5, but got {num_slots}"):
        make()(make_images(), num_slots=num_slots)
    assert make(num_slots=6)(make_images()).masks.shape[1] == 5


def test_images_are_seen_through_the_global_latent_if_asked_for() -> None:
    model = make()
    scene = model.scene(make_images(), imagined=True)
    assert scene.latent is not None
    again = model.sample(2, mode=True, latent=scene.latent)
    torch.testing.assert_close(scene.image, again.image)


def test_scenes_are_imagined_by_sample_and_by_mode() -> None:
    model = make()
    first = model.sample(2)
    assert first.latent is not None
    samples = [model.sample(2, latent=first.latent).image for _ in range(2)]
    assert not torch.equal(*samples)
    modes = [model.sample(2, mode=True, latent=first.latent).image for _ in range(2)]
    assert torch.equal(*modes)
    assert not torch.equal(model.sample(2, mode=True).image, modes[0])  # its latent is drawn
    assert first.discovery.masks.shape == (2, SLOTS, SIZE, SIZE)
    assert model.sample(2, num_slots=2).discovery.masks.shape == (2, 2, SIZE, SIZE)


def test_pictures_show_imagined_scenes() -> None:
    model = make()
    images = make_images()
    painted = model.pictures(images, model(images))
    assert painted.keys() == {"boxes", "imagined"}
    assert painted["imagined"].shape == (2, 3, SIZE, SIZE)


def test_steps_are_drawn_anew() -> None:
    model = make()
    first = model.sample(2).latent
    assert first is not None
    latent = model.sample(2, latent=first, redraw=(0,)).latent
    assert latent is not None
    assert (latent == first).all(2).tolist() == [[False, True]] * 2
    with pytest.raises(ValueError, match=r"`redraw` to be steps of `latent` below 2, but got \(2,\)"):
        model.sample(2, latent=first, redraw=(2,))
    with pytest.raises(ValueError, match="`redraw` to be steps of `latent`"):
        model.sample(2, redraw=(0,))
    with pytest.raises(ValueError, match=r"`latent` to be of shape \(3, 2, 4\), but got \(2, 2, 4\)"):
        model.sample(3, latent=first)


def test_the_likelihood_rises_with_particles_and_lies_above_the_elbo() -> None:
    model, images = make(), make_images()
    model.head.presence.bias.data.fill_(100)  # so that the relaxed presence is that of 0 and 1
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


def as_expected(latent: GlobalLatent) -> GlobalLatent:
    return latent._replace(posterior=latent.prior)


def test_the_likelihood_is_exact_where_the_posterior_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to paint but one colour, and a posterior that is the prior, only the noise is left."""
    model, images = make(sigma=0.5, cluster_init=False), make_images()
    head, infer = model.head.forward, model.global_latent.forward
    unit = Gaussian(torch.zeros(2, 4), torch.ones(2, 4))
    plain: list[tuple[Any, str, Any]] = [
        (model.head, "forward", lambda features, *_: head(torch.zeros_like(features))),
        (model.glimpses, "forward", lambda what: torch.zeros(len(what), 4, 8, 8)),
        (model.background, "paint", lambda latent: torch.full((len(latent), 3, SIZE, SIZE), 0.25)),
        (model.background, "infer", lambda encoded: unit),
        (model.background, "expect", lambda latent: unit),
        (model.global_latent, "forward", lambda encoded: as_expected(infer(encoded))),
    ]
    for part, name, value in plain:
        monkeypatch.setattr(part, name, value)
    noise = Gaussian(torch.full_like(images, 0.25), torch.full_like(images, 0.5))
    torch.testing.assert_close(model.log_likelihood(images, 3), total_log_prob(noise, images), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("optimizer", "cls"), [("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)])
def test_the_optimiser_is_chosen(optimizer: str, cls: type[Any]) -> None:
    model = make(optimizer=optimizer, lr=0.01, lr_schedule="constant", warmup_steps=4)
    trainer = make_trainer(3)
    trainer.fit(model, make_data())
    (found,) = trainer.optimizers
    assert isinstance(found, cls)
    assert found.param_groups[0]["lr"] == pytest.approx(0.01 * 3 / 4)


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
        ({"where_weight": [1.0, 1.0, 5, 2]}, r"`where_weight` to be \[start, end, first step, last step\]"),
        ({"global_weight": [-1.0, 1.0, 0, 2]}, "`global_weight` to be at least 0 throughout"),
        ({"tau": [1.0, 0.0, 0, 2]}, "`tau` to be above 0"),
        ({"presence_prior": [0.1, 0.0, 0, 2]}, "`presence_prior` to be between 0 and 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GNMParams(**settings)


def test_in_bfloat16_losses_are_nearly_the_same() -> None:
    model, batch = make(), {"image": make_images()}
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(model.losses(batch)["loss"])
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0)
    assert found[1].dtype == torch.float32
