from typing import Any

import pytest
import torch
import torch.nn.functional as F

from object_discovery import SlotAttentionModel, SlotAttentionParams
from object_discovery.base_params import MaskSource
from object_discovery.configs import read_config
from object_discovery.layers.clustering import appearance_clusters
from object_discovery.layers.mixture import mixture_log_likelihood, necessary_slots, posterior_masks
from object_discovery.layers.object_clusters import object_clusters
from object_discovery.layers.slot_centric import ShapeEncoder, SlotCentricDecoder, slot_frames
from tests.models.tiny import BROADCAST, SIZE, TINY, make_images


def make(**settings: Any) -> SlotAttentionModel:
    torch.manual_seed(0)
    return SlotAttentionModel(**{**TINY["sa"], **settings})


@pytest.mark.parametrize(
    ("name", "count"), [("sa_clevr6", 890_308), ("sa_multi_dsprites", 235_812), ("sa_tetrominoes", 235_812)]
)
def test_published_number_of_parameters(name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in SlotAttentionModel.from_config(name).parameters()) == count


OPTIMISER = {
    "lr": 4e-4,
    "lr_schedule": "exponential",
    "warmup_steps": 10_000,
    "half_life": 100_000,
    "clip_norm": None,
    "batch_size": 64,
    "max_steps": 500_000,
    "precision": "32-true",
}
CORE = {
    "slot_size": 64,
    "mlp_size": 128,
    "num_iterations": 3,
    "slot_init": "gaussian",
    "gradient": "full",
    "aggregation": "mean",
    "encoder_kernel": 5,
    "decoder_kernel": 5,
    "feature_size": None,
    "position_frequencies": 0,
    "slot_centric": False,
    "cluster_init": False,
    "encoder_residual": False,
    "image_range": "signed",
    "weight_init": "keras",
    "norm_eps": 1e-3,
    "reconstruction_loss": "mse",
    "entropy_weight": 0,
    "foreground_weight": 0,
    "mask_source": "decoder",
    "prune_gain": 0,
}
FULL_SIZE = {
    "encoder_channels": [32] * 4,
    "encoder_strides": [1] * 4,
    "decoder_channels": [32] * 3,
    "decoder_strides": [1] * 3,
    "decoder_final_stride": 1,
    "decoder_final_kernel": 3,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sa_clevr6": {
        "resolution": 128,
        "num_slots": 7,
        "max_objects": 6,
        "encoder_channels": [64] * 4,
        "encoder_strides": [1] * 4,
        "broadcast_size": 8,
        "decoder_channels": [64] * 5,
        "decoder_strides": [2, 2, 2, 2, 1],
        "decoder_final_stride": 1,
        "decoder_final_kernel": 3,
    },
    "sa_multi_dsprites": {"resolution": 64, "num_slots": 6, "broadcast_size": 64, **FULL_SIZE},
    "sa_tetrominoes": {"resolution": 35, "num_slots": 4, "broadcast_size": 35, **FULL_SIZE},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_are_the_published_settings(name: str) -> None:
    config = read_config(name)
    expected = {**OPTIMISER, **CORE, **PUBLISHED[name]}
    assert {key: config.get(key, "missing") for key in expected} == expected
    assert config.keys() - expected.keys() == {"model_type", "dataset"}
    assert config["model_type"] == "sa"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layers(name: str) -> None:
    model = SlotAttentionModel.from_config(name)
    settings = PUBLISHED[name]
    convolutions = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (channels, (5, 5), (1, 1)) for channels in settings["encoder_channels"]
    ]
    transposed = [m for m in model.decoder.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in transposed] == [
        *((c, (5, 5), (s, s)) for c, s in zip(settings["decoder_channels"], settings["decoder_strides"], strict=True)),
        (4, (3, 3), (1, 1)),
    ]
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert model.slot_attention.epsilon == 1e-8
    assert not any(m.bias.any() for m in [*convolutions, *transposed] if m.bias is not None)


@pytest.mark.parametrize(("image_range", "scale"), [("signed", 2), ("unit", 1)])
def test_loss_is_the_mse_in_the_pixel_range_of_the_network(image_range: str, scale: int) -> None:
    model = make(slot_init="learned", image_range=image_range).eval()
    images = make_images()
    discovery = model(images)
    assert discovery.image is not None
    expected = ((scale * discovery.image - scale * images) ** 2).mean()
    torch.testing.assert_close(model.losses({"image": images})["loss"], expected)


def test_forward_pass_equals_its_layers() -> None:
    model = make(slot_init="learned", image_range="signed")
    images = make_images()
    discovery = model(images)
    clusters = object_clusters(images, SIZE, 3, 0.0015)  # on a finer grid, 2 x 2 to a feature
    clusters = F.avg_pool2d(clusters.view(2, 3, SIZE, SIZE), 2).flatten(2)
    slots, attention = model.slot_attention(model.encoder(2 * images - 1), clusters=clusters)
    frames = slot_frames(attention, SIZE // 2)
    assert isinstance(model.shape_encoder, ShapeEncoder)
    assert isinstance(model.decoder, SlotCentricDecoder)
    active = slots.any(2)
    slots = slots + model.shape_encoder(attention, frames, SIZE // 2) * active[..., None]
    image, slot_images, masks = model.decoder(slots, frames, active)
    torch.testing.assert_close(discovery.slots, slots)
    torch.testing.assert_close(discovery.decoder_masks, masks)
    torch.testing.assert_close(discovery.image, image / 2 + 0.5)
    torch.testing.assert_close(discovery.slot_images, slot_images / 2 + 0.5)
    posterior = posterior_masks(masks, slot_images / 2 + 0.5, images)
    torch.testing.assert_close(discovery.posterior_masks, posterior)
    torch.testing.assert_close(discovery.masks, posterior)
    torch.testing.assert_close(discovery.attention, attention.view(2, 3, SIZE // 2, SIZE // 2))


def test_clusters_by_appearance_are_on_a_coarse_grid() -> None:
    model = make(resolution=48, encoder_strides=[1], clusters="appearance", prune_gain=0).eval()
    images = torch.rand(2, 3, 48, 48)
    coarse = appearance_clusters(images, 16, 3, 0.0015).view(2, 3, 16, 16)
    fine = coarse.repeat_interleave(3, 2).repeat_interleave(3, 3)
    discovery = model(images)
    torch.testing.assert_close(discovery.cluster_masks, fine)
    _, attention = model.slot_attention(model.encoder(2 * images - 1), clusters=fine.flatten(2))
    assert discovery.attention is not None
    torch.testing.assert_close(discovery.attention.flatten(2), attention)


def test_published_forward_pass_equals_its_layers() -> None:
    model = make(**BROADCAST, slot_init="learned", cluster_init=False, mask_source="decoder", prune_gain=0).eval()
    images = make_images()
    discovery = model(images)
    slots, _ = model.slot_attention(model.encoder(2 * images - 1))
    image, slot_images, masks = model.decoder(slots)
    torch.testing.assert_close(discovery.slots, slots)
    torch.testing.assert_close(discovery.masks, masks)
    torch.testing.assert_close(discovery.image, image / 2 + 0.5)
    torch.testing.assert_close(discovery.slot_images, slot_images / 2 + 0.5)


def test_slots_that_explain_nothing_are_pruned_in_prediction() -> None:
    model, images = make(prune_gain=0).eval(), make_images()
    whole = model(images)
    necessary = necessary_slots(whole.decoder_masks, whole.slot_images, images, 0.05)
    assert 0 < necessary.sum() < necessary.numel()
    model.params.prune_gain = 0.05
    pruned = model(images)
    masks = whole.decoder_masks * necessary[..., None, None]
    masks = masks / masks.sum(1, keepdim=True)
    torch.testing.assert_close(pruned.slots, whole.slots * necessary[..., None])
    torch.testing.assert_close(pruned.decoder_masks, masks)
    torch.testing.assert_close(pruned.masks, posterior_masks(masks, whole.slot_images, images))
    torch.testing.assert_close(pruned.image, (whole.slot_images * masks[:, :, None]).sum(1))
    torch.testing.assert_close(model.train()(images).slots, whole.slots)


def test_masks_are_by_their_source() -> None:
    model, images = make(slot_init="learned", cluster_init=False), make_images()
    discovery = model(images)
    expected: dict[MaskSource, Any] = {
        "decoder": discovery.decoder_masks,
        "posterior": discovery.posterior_masks,
        "attention": F.interpolate(discovery.attention, (SIZE, SIZE), mode="bilinear"),
    }
    assert not torch.allclose(expected["decoder"], expected["posterior"], atol=1e-3)
    for source, masks in expected.items():
        model.params.mask_source = source
        actual = model(images)
        torch.testing.assert_close(actual.masks, masks)
        torch.testing.assert_close(actual.decoder_masks, discovery.decoder_masks)
        torch.testing.assert_close(actual.posterior_masks, discovery.posterior_masks)


def test_mixture_loss_is_the_scaled_likelihood_in_the_pixel_range_of_the_network() -> None:
    model = make(slot_init="learned", reconstruction_loss="mixture").eval()
    images = make_images()
    discovery = model(images)
    sigma = torch.tensor(0.3)  # at the start
    likelihood = mixture_log_likelihood(discovery.decoder_masks, 2 * discovery.slot_images - 1, 2 * images - 1, sigma)
    losses = model.losses({"image": images})
    torch.testing.assert_close(losses["loss"], -likelihood.mean() * 2 * sigma**2 / 3)
    torch.testing.assert_close(losses["mse"], (2 * discovery.image - 2 * images).square().mean())
    assert float(losses["sigma"]) == pytest.approx(0.3)


def test_entropy_of_the_masks_is_added_after_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(slot_init="learned", entropy_weight=0.5, entropy_start=100, entropy_warmup=200, foreground_weight=0)
    images = make_images()
    masks = model(images).decoder_masks
    expected = torch.distributions.Categorical(masks.permute(0, 2, 3, 1)).entropy().mean()  # type: ignore[no-untyped-call]
    values = {}
    for step in (0, 100, 200, 300, 1000):
        monkeypatch.setattr(type(model), "global_step", step)
        values[step] = model.losses({"image": images})
    assert "mask_entropy" not in values[100]
    torch.testing.assert_close(values[0]["loss"], values[100]["loss"])
    for step, weight in ((200, 0.25), (300, 0.5), (1000, 0.5)):
        torch.testing.assert_close(values[step]["mask_entropy"], expected)
        torch.testing.assert_close(values[step]["loss"] - values[0]["loss"], weight * expected)
    model.eval()
    torch.testing.assert_close(model.losses({"image": images})["loss"], values[0]["loss"])


def test_share_of_the_foreground_is_added_with_a_known_background(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"foreground_weight": 0.5, "entropy_weight": 0, "entropy_start": 100, "entropy_warmup": 200}
    model, images = make(**settings), make_images()
    monkeypatch.setattr(type(model), "global_step", 200)
    losses = model.losses({"image": images})
    share = model(images).decoder_masks[:, 1:].sum(1).mean()
    torch.testing.assert_close(losses["foreground"], share, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(type(model), "global_step", 100)
    torch.testing.assert_close(losses["loss"] - model.losses({"image": images})["loss"], 0.25 * share)
    monkeypatch.setattr(type(model), "global_step", 1000)
    assert "foreground" not in make(**settings, clusters="appearance").losses({"image": images})


def test_numbers_of_slots_and_iterations_are_options() -> None:
    assert make(slot_init="gaussian")(make_images(), num_slots=6).masks.shape == (2, 6, SIZE, SIZE)
    model = make(slot_init="gaussian", **BROADCAST)
    images, initial_slots = make_images(), torch.randn(2, 5, 16)
    first = model(images, initial_slots, num_iterations=1)
    assert first.masks.shape == (2, 5, SIZE, SIZE)
    continued = model(images, first.slots, num_iterations=2)
    torch.testing.assert_close(continued.slots, model(images, initial_slots, num_iterations=3).slots)


def test_images_of_few_objects_have_inactive_slots() -> None:
    model = make(num_slots=5, prune_gain=0).eval()
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[0, 0, 2:6, 2:6] = 1
    discovery = model(images)
    for values in (discovery.slots, discovery.masks, discovery.attention):
        assert values is not None
        assert values.flatten(2).any(2).tolist() == [[True, True, False, False, False], [True] + [False] * 4]
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones(2, SIZE, SIZE))


def test_cluster_init_can_be_disabled() -> None:
    model = make(slot_init="learned", cluster_init=False, prune_gain=0).eval()
    images = make_images()
    slots, attention = model.slot_attention(model.encoder(2 * images - 1))
    assert model.shape_encoder is not None
    shapes = model.shape_encoder(attention, slot_frames(attention, SIZE // 2), SIZE // 2)
    torch.testing.assert_close(model(images).slots, slots + shapes)


@pytest.mark.parametrize("shape", [(2, 3, 16, 17), (2, 3, 32, 32), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`images` to be \(B, 3, 16, 16\), but got"):
        make()(torch.zeros(shape))


def test_strides_that_do_not_reach_the_resolution_are_refused() -> None:
    with pytest.raises(ValueError, match="to reach the resolution 16"):
        make(**BROADCAST, broadcast_size=7)


@pytest.mark.parametrize("name", ["decoder_channels", "decoder_kernel", "broadcast_size", "decoder_final_stride"])
def test_settings_of_the_broadcast_decoder_are_refused_with_slot_centric(name: str) -> None:
    value = [8] if name == "decoder_channels" else 3
    strides = {"decoder_strides": [1]} if name == "decoder_channels" else {}
    with pytest.raises(ValueError, match=f"`{name}` to be None with slot_centric"):
        SlotAttentionParams(**{name: value, **strides})  # type: ignore[arg-type]


@pytest.mark.parametrize("resolution", [1, 8, 15, 32, 35, 47, 48, 64, 95, 96, 128, 200])
def test_the_recommended_network_fits_any_resolution(resolution: int) -> None:
    model = SlotAttentionModel(resolution=resolution, num_slots=2, slot_size=8, mlp_size=8)
    assert model.encoder.size <= 32
    with torch.no_grad():
        discovery = model(torch.rand(1, 3, resolution, resolution))
    assert discovery.masks.shape == (1, 2, resolution, resolution)
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones(1, resolution, resolution))


def test_every_hyperparameter_of_the_core_reaches_it() -> None:
    settings: dict[str, Any] = {
        "num_slots": 5,
        "num_iterations": 4,
        "num_heads": 2,
        "slot_init": "gaussian",
        "gradient": "implicit",
        "neumann_terms": 3,
        "aggregation": "sum",
        "tolerance": 0.25,
    }
    core = make(**settings).slot_attention
    assert {name: getattr(core, name) for name in settings} == settings
    assert core.mlp[0].out_features == TINY["sa"]["mlp_size"]


@pytest.mark.parametrize(("step", "noise"), [(0, 1.0), (5, 0.5), (10, 0.0), (11, 0.0)])
def test_slot_noise_follows_a_cosine_schedule_in_training_only(
    step: int, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(slot_init="learned", noise_steps=10)
    noises: list[float] = []
    initial_slots = model.slot_attention.initial_slots

    def record_noise(batch_size: int, num_slots: int | None, noise: float) -> torch.Tensor:
        noises.append(noise)
        return initial_slots(batch_size, num_slots, noise)

    monkeypatch.setattr(model.slot_attention, "initial_slots", record_noise)
    monkeypatch.setattr(SlotAttentionModel, "global_step", step)
    model.losses({"image": make_images()})
    model.eval().losses({"image": make_images()})
    model(make_images())
    assert noises == pytest.approx([noise, 0, 0])


@pytest.mark.parametrize("gradient", ["full", "implicit", "bilevel"])
def test_training_lowers_the_reconstruction_error(gradient: str) -> None:
    model = make(slot_init="learned", gradient=gradient)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[0, 0, :8], images[1, 1, :, 8:] = 1, 1
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.losses({"image": images})["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_keras_weight_initialisation_has_zero_biases() -> None:
    bias = "encoder.convolutions.0.bias"
    assert not make(weight_init="keras").state_dict()[bias].any()
    assert make(weight_init="torch").state_dict()[bias].any()


def test_params_object_is_accepted() -> None:
    params = SlotAttentionParams(**TINY["sa"])
    assert SlotAttentionModel(params).params is params
