from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from object_discovery import load
from object_discovery.configs import read_config
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.models import MODELS
from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.dinosaur.pixels import PixelDecoder, downsample, pixel_inputs, upsample
from tests.models.tiny import SIZE, SLOTS, TINY, make_data, make_images, make_trainer


def make(**settings: Any) -> DINOSAUR:
    torch.manual_seed(0)
    return DINOSAUR(**{**TINY["dinosaur"], "decoder": "broadcast", "reconstruction_size": 12, **settings})


def test_the_decoder_has_the_published_layers() -> None:
    decoder = PixelDecoder(64)
    linear = [layer for layer in decoder.mlp if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(64, 32), (32, 32), (32, 32)]
    transposed = [layer for layer in decoder.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [(layer.kernel_size, layer.stride, layer.out_channels) for layer in transposed] == [
        *[((5, 5), (2, 2), 32)] * 4,
        ((5, 5), (1, 1), 32),
        ((3, 3), (1, 1), 4),
    ]
    inputs = [type(layer).__name__ for layer in pixel_inputs(768, 64)]  # type: ignore[attr-defined]
    assert inputs == ["LayerNorm", "Linear", "ReLU", "LayerNorm", "Linear", "ReLU", "Linear"]
    torch.manual_seed(0)
    core = make(slot_init="gaussian", slot_size=64).slot_attention
    assert core.mu.std().item() == pytest.approx(1, abs=0.3)
    assert 0 <= core.log_sigma.min() < 0.1
    assert 0.9 < core.log_sigma.max() < 1


@pytest.mark.parametrize("size", [8, 12, 32])
def test_image_is_the_sum_of_masked_slot_images(size: int) -> None:
    torch.manual_seed(0)
    slots = torch.randn(2, 3, 8)
    image, masks, slot_images = PixelDecoder(8, size, channels=4)(slots)
    assert image.shape == (2, 3, size, size)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, size, size))
    torch.testing.assert_close(image, torch.einsum("bkhw,bkchw->bchw", masks, slot_images))
    decoder = PixelDecoder(8, size, channels=4)
    for permuted, expected in zip(decoder(slots.flip(1))[1:], decoder(slots)[1:], strict=True):
        torch.testing.assert_close(permuted.flip(1), expected)


def test_identical_slots_have_identical_images_that_vary_in_space() -> None:
    torch.manual_seed(0)
    _, _, slot_images = PixelDecoder(8, 16, channels=4)(torch.zeros(1, 2, 8))
    assert torch.equal(slot_images[:, 0], slot_images[:, 1])
    assert slot_images[0, 0].flatten(1).std(1).min() > 0


def test_upsampling_keeps_mask_sums_and_downsampling_keeps_constants() -> None:
    masks = torch.rand(2, 3, 4, 4).softmax(1)
    slot_images = torch.rand(2, 3, 3, 4, 4)
    image, upsampled_images, upsampled_masks = upsample(slot_images, masks, 10)
    torch.testing.assert_close(upsampled_masks.sum(1), torch.ones(2, 10, 10))
    torch.testing.assert_close(upsampled_images[:, 1], F.interpolate(slot_images[:, 1], (10, 10), mode="bilinear"))
    torch.testing.assert_close(image, (upsampled_images * upsampled_masks[:, :, None]).sum(1))
    constant = torch.full((1, 3, 9, 9), 0.3)
    torch.testing.assert_close(downsample(constant, 4), torch.full((1, 3, 4, 4), 0.3))


def test_loss_is_the_mse_at_the_reconstruction_size() -> None:
    model, images = make(), make_images()
    slots, _ = model.attend_slots(model.inputs(model.encoder(images)))
    reconstruction = model.decoder(slots)[0]
    target = F.interpolate(images, (12, 12), mode="bilinear", antialias=True)
    loss = model.losses({"image": images})["loss"]
    torch.testing.assert_close(loss, ((reconstruction - target) ** 2).mean())
    _, scores = model.score_batch({"image": images})
    torch.testing.assert_close(scores["loss"].mean(), loss)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"No gradient for {name}"


def test_discoveries_have_the_size_of_the_images() -> None:
    model, images = make(), make_images()
    discovery = model(images)
    assert discovery.image is not None
    assert discovery.slot_images is not None
    assert discovery.image.shape == images.shape
    assert discovery.masks.shape == (2, SLOTS, SIZE, SIZE)
    torch.testing.assert_close((discovery.slot_images * discovery.masks[:, :, None]).sum(1), discovery.image)
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones(2, SIZE, SIZE))
    for tensor, scored in zip(discovery, model.score_batch({"image": images})[0], strict=True):
        torch.testing.assert_close(tensor, scored)
    slot_discovery = make(mask_source="attention")(images)
    assert slot_discovery.image is None
    torch.testing.assert_close(
        slot_discovery.masks,
        F.interpolate(slot_discovery.attention, (SIZE, SIZE), mode="bilinear", align_corners=False),
    )


def test_training_with_stored_features_and_loading(tmp_path: Path) -> None:
    model = make(cosine_weight=0.1)
    assert model.needs_images
    assert not DINOSAUR(**TINY["dinosaur"]).needs_images
    images = make_images()
    expected_loss = model.losses({"image": images})["loss"]
    torch.testing.assert_close(
        model.losses({"image": images, "features": model.encoder(images)})["loss"], expected_loss
    )
    trainer = make_trainer(2)
    trainer.fit(model, make_data())
    assert {"train/cosine_loss", "val/mse", "val/loss", "val/slot_cosine"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    expected = model.eval()(images)
    torch.testing.assert_close(load(tmp_path / "last.ckpt")(images).masks, expected.masks)


def test_overfits_two_images() -> None:
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[0, 0, :8], images[1, 1, :, 8:] = 1, 1
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.losses({"image": images})["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_encoder_scaling_can_be_disabled() -> None:
    settings: dict[str, Any] = {"weights": "none", "block": 2, "resolution": SIZE}
    scaled, raw = (
        FrozenEncoder("test_efficientnet", **settings),
        FrozenEncoder("test_efficientnet", **settings, scaling=False),
    )
    images = make_images()
    torch.testing.assert_close(raw((images - scaled.mean) / scaled.std), scaled(images))
    assert raw.description() != scaled.description()
    assert make(encoder_scaling=False).encoder.description() == raw.description()


COMMON = {
    "model_type": "dinosaur",
    "dataset": "coco",
    "fit": "squash",
    "resolution": 224,
    "num_slots": 7,
    "max_steps": 500_000,
    "lr": 4e-4,
    "lr_schedule": "exponential",
    "warmup_steps": 10_000,
    "half_life": 100_000,
    "clip_norm": 1.0,
    "encoder": "dino_b16",
    "encoder_scaling": False,
    "num_iterations": 3,
}
FEATURES = {"decoder": "mlp", "decoder_size": 3072, "decoder_top_k": None}
PIXELS = {"decoder": "broadcast", "reconstruction_size": 128, "norm_eps": 1e-3}
SLOT_REGULARIZER = {
    "covariance_weight": 1.0,
    "covariance_divisor": "size",
    "variance_weight": 1.0,
    "variance_target": 1.0,
    "projection_size": None,
}
HEAD_REGULARIZER = {
    "covariance_weight": 1.0,
    "covariance_divisor": "square",
    "variance_weight": 0.0,
    "variance_target": 0.0,
    "projection_size": 1024,
    "projection_norm": "layer",
}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("dinosaur_coco_256", {**FEATURES, "slot_size": 256, "mlp_size": 1024}),
        ("dinosaur_coco_256_covariance", {**FEATURES, **SLOT_REGULARIZER, "slot_size": 256, "mlp_size": 1024}),
        ("dinosaur_coco_1024", {**FEATURES, "slot_size": 1024, "mlp_size": 4096}),
        ("dinosaur_coco_1024_covariance", {**FEATURES, **SLOT_REGULARIZER, "slot_size": 1024, "mlp_size": 4096}),
        ("dinosaur_coco_pixels_covariance", {**PIXELS, **HEAD_REGULARIZER, "slot_size": 64, "mlp_size": 256}),
        ("dinosaur_coco_pixels_cosine", {**PIXELS, "cosine_weight": 0.01, "slot_size": 128, "mlp_size": 512}),
    ],
)
def test_configs_are_the_published_settings(name: str, published: dict[str, Any]) -> None:
    config, expected = read_config(name), COMMON | published
    assert {key: config.get(key, "missing") for key in expected} == expected
    losses = {key for key in config if key.startswith(("covariance_weight", "cosine_weight", "variance_weight"))}
    assert losses == {key for key in published if key.endswith("_weight")}
    assert MODELS["dinosaur"].from_config(name, encoder_weights="none").params.num_slots == 7
