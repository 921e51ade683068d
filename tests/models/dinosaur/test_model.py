from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery import load
from object_discovery.errors import UserError
from object_discovery.models.dinosaur import DINOSAUR
from tests.models.tiny import SIZE, SLOTS, TINY, make_data, make_images, make_trainer

GRID = 4
"""Height and width of the features of the tiny encoder."""
transformer = {"decoder": "transformer", "decoder_blocks": 2, "decoder_heads": 2}
every_decoder = pytest.mark.parametrize("settings", [{}, {"decoder_top_k": None}, transformer], ids=str)


def make(**settings: Any) -> DINOSAUR:
    torch.manual_seed(0)
    return DINOSAUR(**{**TINY["dinosaur"], **settings})


def encoder_state(model: DINOSAUR) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.encoder.network.state_dict().items()}


def forbid_encoder(model: DINOSAUR, monkeypatch: pytest.MonkeyPatch) -> DINOSAUR:
    def fail(*args: Any) -> Tensor:
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(model.encoder, "forward", fail)
    monkeypatch.setattr(model.encoder, "_load", fail)
    return model


@every_decoder
def test_loss_is_the_mse_of_the_features(settings: dict[str, Any]) -> None:
    model = make(**settings).double()
    features = torch.randn(2, GRID**2, model.encoder.feature_size, dtype=torch.float64)
    slots, attention = model.slot_attention(model.inputs(features))
    decoder: Any = model.decoder
    predicted = decoder(slots, attention=attention, features=features).prediction
    expected = ((predicted - features) ** 2).sum() / features.numel()
    loss = model.losses({"features": features})["loss"]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    score = model.score_batch({"features": features})[1]["loss"]
    torch.testing.assert_close(score.double(), ((predicted - features) ** 2).mean((1, 2)), rtol=1e-6, atol=0)


def test_feature_projection_is_the_published_one() -> None:
    model = make(norm_eps=1e-2).double()
    norm, hidden, relu, last = model.inputs.children()
    features = 3 + 2 * torch.randn(2, GRID**2, 24, dtype=torch.float64)
    normalised = (features - features.mean(-1, keepdim=True)) / (features.var(-1, False, keepdim=True) + 1e-2).sqrt()
    expected = (normalised @ hidden.weight.T + hidden.bias).clamp_min(0) @ last.weight.T + last.bias  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model.inputs(features), expected)
    assert [type(part).__name__ for part in (norm, relu)] == ["LayerNorm", "ReLU"]


@every_decoder
def test_slot_attention_gets_gradients(settings: dict[str, Any]) -> None:
    model = make(**settings)
    model.losses({"image": make_images()})["loss"].backward()  # type: ignore[no-untyped-call]
    for parameter in (model.slot_attention.queries, model.slot_attention.to_value.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@every_decoder
def test_losses_and_scores_of_stored_features_need_no_encoder(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = make(**settings).eval(), make_images()
    features = model.encoder(images)
    loss, (expected, expected_scores) = model.losses({"image": images})["loss"], model.score_batch({"image": images})
    forbid_encoder(model, monkeypatch)
    batch = {"features": features, "image": torch.empty(2, 3, 0, 0)}
    assert torch.equal(model.losses(batch)["loss"], loss)
    discovery, scores = model.score_batch(batch)
    assert torch.equal(discovery.masks, expected.masks)
    assert torch.equal(scores["loss"], expected_scores["loss"])
    half_loss = model.losses({**batch, "features": features.half()})["loss"]
    torch.testing.assert_close(half_loss, loss, rtol=2e-3, atol=0)


def test_feature_norm_normalises_each_feature_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = make(feature_norm=True).eval(), make_images()
    raw = 7 + 30 * model.encoder(images)
    monkeypatch.setattr(model.encoder, "forward", lambda images: raw)
    features = model.features({"image": images})
    torch.testing.assert_close(features, (raw - raw.mean(2, True)) / (raw.var(2, False, True) + 1e-5).sqrt())
    assert torch.equal(model.features({"features": raw}), features)
    assert torch.equal(model(images).masks, model.score_batch({"features": raw})[0].masks)


def test_masks_are_those_of_the_decoder_or_of_slot_attention() -> None:
    images = make_images()
    for settings in ({}, transformer):
        model = make(**settings).eval()
        discovery = model(images)
        features = model.encoder(images)
        slots, attention = model.attend_slots(model.inputs(features))
        decoder: Any = model.decoder
        patch_masks = decoder.masks(slots, attention=attention, features=features)[0]
        expected = F.interpolate(patch_masks.view(2, SLOTS, GRID, GRID), (SIZE, SIZE), mode="bilinear")
        assert torch.equal(discovery.masks, expected)
        assert torch.equal(discovery.attention, attention.view(2, SLOTS, GRID, GRID))
        model.params.mask_source = "attention"
        slot_discovery = model(images)
        assert torch.equal(slot_discovery.attention, discovery.attention)
        assert torch.equal(slot_discovery.masks, F.interpolate(discovery.attention, (SIZE, SIZE), mode="bilinear"))
        scored, _ = model.score_batch({"image": images})
        assert torch.equal(scored.masks, slot_discovery.masks)


def test_encoder_is_frozen_and_not_saved(tmp_path: Path) -> None:
    model = make()
    before = encoder_state(model)
    trainer = make_trainer(3)
    trainer.fit(model, make_data())
    model.train()
    assert not any(module.training for module in model.encoder.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in encoder_state(model).items())
    assert not any(parameter.requires_grad for parameter in model.encoder.network.parameters())
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(parameter) for parameter in model.parameters()}
    assert not any(name.startswith("encoder") for name in model.state_dict())


def save(model: DINOSAUR, path: Path) -> Path:
    trainer = make_trainer(0)
    trainer.fit(model, make_data())
    trainer.save_checkpoint(path)
    return path


def test_checkpoints_store_the_key_of_the_encoder_weights(tmp_path: Path) -> None:
    model = make()
    key = model.encoder.key()
    path = save(model, tmp_path / "a.ckpt")
    assert torch.load(path, weights_only=True)["encoder"] == key
    loaded = load(path)
    assert isinstance(loaded, DINOSAUR)
    assert not loaded.encoder.is_loaded
    assert loaded.encoder.key() == key
    mismatched = DINOSAUR.load_from_checkpoint(path, encoder_seed=1)
    with pytest.raises(UserError, match="features of test_efficientnet with other weights than 'none'"):
        mismatched(make_images())


def test_encoder_weights_may_be_beside_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "here" / "backbone.pth"
    file.parent.mkdir()
    torch.save({"teacher": {f"backbone.{name}": value for name, value in encoder_state(make()).items()}}, file)
    model = make(encoder_weights=str(file))
    expected = model.eval()(make_images()).masks
    path = save(model, tmp_path / "here" / "a.ckpt").rename(tmp_path / "a.ckpt")
    assert torch.equal(load(path)(make_images()).masks, expected)
    moved = file.rename(tmp_path / "backbone.pth")
    assert torch.equal(load(path)(make_images()).masks, expected)
    elsewhere = moved.rename(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"`encoder_weights` to be hub, none or a file of weights, but there is no"):
        load(path)(make_images())
    actual = DINOSAUR.load_from_checkpoint(path, encoder_weights=str(elsewhere)).eval()
    assert torch.equal(actual(make_images()).masks, expected)


def test_training_from_stored_features_needs_no_weights(tmp_path: Path) -> None:
    model = make(encoder="vit_small_patch16_224.dino", encoder_weights="hub", encoder_block=None)
    assert model.encoder.grid == (1, 1)
    loss = model.losses({"features": torch.randn(2, 1, 384)})["loss"]
    assert loss.isfinite()
    assert not model.encoder.is_loaded


@pytest.mark.parametrize("shape", [(2, 15, 24), (2, 16, 23)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`features` to be \(B, 16, 24\), but got \(2, "):
        make().losses({"features": torch.zeros(shape)})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 16, 16\), but got \(2, 3, 8, 8\)"):
        make().losses({"image": torch.zeros(2, 3, 8, 8)})


def test_gaussian_slot_initialisation_is_as_published() -> None:
    model = make(slot_init="gaussian", gradient="full", slot_size=1024)
    bound = (6 / (1024 + 1024)) ** 0.5  # Xavier uniform of shape (1, 1, D)
    assert 0.95 * bound < model.slot_attention.mu.abs().max() <= bound


def test_monitored_score_with_and_without_masks() -> None:
    assert DINOSAUR.monitor(has_masks=True) == ("val/mbo_i", "max")
    assert DINOSAUR.monitor(has_masks=False) == ("val/loss", "min")


def test_published_numbers_of_parameters_and_learning_rate() -> None:
    core = 3 * 256**2 + 6 * 256**2 + 6 * 256 + 2 * 256 * 1024 + 1024 + 256 + 3 * 2 * 256 + 2 * 256
    head = 2 * 768 + 768 * 768 + 768 + 768 * 256 + 256
    for name, decoder in (("dinosaur_coco", 10_544_897), ("dinosaur_coco_transformer", 38_597_376)):
        model = DINOSAUR.from_config(name)
        assert sum(parameter.numel() for parameter in model.parameters()) == core + head + decoder
        model._total_steps = 500_000
        assert model.learning_rate_factor(5000) == 0.5
        assert model.learning_rate_factor(10_000) == 1
        assert model.learning_rate_factor(110_000) == 0.5
        assert model.learning_rate_factor(210_000) == 0.25


def test_slots_depend_on_the_order_of_features_only_with_positions() -> None:
    features, order = torch.randn(2, GRID**2, 24), torch.randperm(GRID**2)
    for scale, is_equal in ((0.0, True), (5.0, False)):
        model = make(position_scale=scale).eval()
        slots, permuted_slots = model._attend_slots(features)[0], model._attend_slots(features[:, order])[0]
        assert torch.allclose(slots, permuted_slots, atol=1e-4) == is_equal
    assert model.position is not None
    model.losses({"features": features})["loss"].backward()  # type: ignore[no-untyped-call]
    assert model.position.projection.weight.grad is not None
    assert model.position.projection.weight.grad.abs().max() > 0


def test_kmeans_weight_initialisation() -> None:
    core = make(weight_init="kmeans").slot_attention
    biases = [value for name, value in core.mlp.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(value.any() for value in biases)  # initialised as in Keras
    assert torch.equal(core.to_query.weight, torch.eye(*core.to_query.weight.shape))
    torch.testing.assert_close(core.to_key.weight, 2 * core.to_value.weight)
