"""Slot regularizers and slot metrics of every model with Slot Attention."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import object_discovery
from object_discovery.configs import read_config
from object_discovery.layers.regularizers import cosine_loss, covariance_loss, slot_covariance_loss, variance_loss
from object_discovery.metrics import slot_cosine, slot_covariance
from object_discovery.models import MODELS
from object_discovery.models.slot_model import SlotModel
from object_discovery.params import SlotParams
from tests.models.tiny import SLOTS, make_data, make_images, make_model, make_objects, make_trainer

slot_models = pytest.mark.parametrize(
    "model_type", sorted(name for name, cls in MODELS.items() if issubclass(cls, SlotModel))
)
WEIGHTS = {"covariance_weight": 2.0, "variance_weight": 0.5, "cosine_weight": 4.0}
HEAD = {"projection_size": 12}


def make(model_type: str, **settings: Any) -> SlotModel[Any]:
    model = make_model(model_type, **settings)
    assert isinstance(model, SlotModel)
    return model


def make_batch() -> dict[str, Tensor]:
    return {"image": make_images(), "objects": make_objects()}


def losses(model: SlotModel[Any]) -> dict[str, Tensor]:
    torch.manual_seed(3)  # for sampled slots, sampled tokens and dropout
    return model.losses(make_batch())


@slot_models
def test_there_is_no_regularizer_by_default(model_type: str) -> None:
    model = make(model_type)
    assert model.regularizer is None
    actual = losses(model)
    assert not {name for name in actual if name.endswith("_loss")}


@slot_models
def test_loss_includes_the_weighted_regularizers(model_type: str) -> None:
    plain, actual = losses(make(model_type)), losses(make(model_type, **WEIGHTS, variance_target=3.0))
    weights = {"covariance": 2.0, "variance": 0.5, "cosine": 4.0}
    assert actual.keys() - plain.keys() == {"unregularized_loss", *(f"{name}_loss" for name in weights)}
    torch.testing.assert_close(actual["unregularized_loss"], plain["loss"])
    for name in plain.keys() - {"loss"}:
        torch.testing.assert_close(actual[name], plain[name])
    extra = sum((weight * actual[f"{name}_loss"] for name, weight in weights.items()), torch.zeros(()))
    assert extra > 0
    torch.testing.assert_close(actual["loss"], plain["loss"] + extra)


@slot_models
@pytest.mark.parametrize("settings", [{}, HEAD, {"covariance_of": "slots"}])
def test_regularizer_has_gradients_to_slots_and_head(model_type: str, settings: dict[str, Any]) -> None:
    model = make(model_type, **WEIGHTS, **settings, variance_target=3.0)
    slots = torch.randn(2, SLOTS, model.params.slot_size, requires_grad=True)
    model.regularize({"loss": torch.zeros(())}, slots)["loss"].backward()  # type: ignore[no-untyped-call]
    assert slots.grad is not None
    assert slots.grad.abs().sum(2).all()
    assert model.regularizer is not None
    gradients = [parameter.grad for parameter in model.regularizer.parameters()]
    assert len(gradients) == (10 if settings == HEAD else 0)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize(
    ("settings", "name", "function"),
    [
        ({"covariance_weight": 1.0}, "covariance_loss", covariance_loss),
        (
            {"covariance_weight": 1.0, "covariance_divisor": "square"},
            "covariance_loss",
            lambda slots: covariance_loss(slots, divide_by_square=True),
        ),
        ({"covariance_weight": 1.0, "covariance_of": "slots"}, "covariance_loss", slot_covariance_loss),
        ({"variance_weight": 1.0}, "variance_loss", variance_loss),
        (
            {"variance_weight": 1.0, "variance_target": 5.0, "covariance_of": "slots"},
            "variance_loss",
            lambda slots: variance_loss(slots, target=5.0, of="slots"),
        ),
        ({"cosine_weight": 1.0}, "cosine_loss", cosine_loss),
    ],
)
def test_every_hyperparameter_reaches_the_losses(settings: dict[str, Any], name: str, function: Any) -> None:
    slots = torch.randn(4, SLOTS, 16, generator=torch.Generator().manual_seed(0))
    actual = make("sa", **settings).regularize({"loss": torch.zeros(())}, slots)
    assert actual.keys() == {"loss", "unregularized_loss", name}
    torch.testing.assert_close(actual[name], function(slots))


@pytest.mark.parametrize(("norm", "width"), [("batch", SLOTS), ("layer", 12)])
def test_head_has_the_given_size_and_norm(norm: str, width: int) -> None:
    regularizer = make("sa", cosine_weight=1.0, projection_size=12, projection_norm=norm).regularizer
    assert regularizer is not None
    shapes = [tuple(parameter.shape) for parameter in regularizer.parameters()]
    assert shapes == [(12, 16), (12,), (width,), (width,), (12, 12), (12,), (width,), (width,), (12, 12), (12,)]


@pytest.mark.parametrize(
    ("step", "covariance", "cosine"), [(0, 0.0, 0.0), (1, 0.25, 0.1), (4, 1.0, 0.4), (5, 1.0, 0.5), (100, 1.0, 1.0)]
)
def test_regularizer_weights_have_a_linear_warm_up(
    step: int, covariance: float, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("sa", **WEIGHTS, covariance_warmup=4, cosine_warmup=10, variance_target=3.0)
    monkeypatch.setattr(type(model), "global_step", step)
    actual = losses(model)
    expected = (
        actual["unregularized_loss"]
        + 2.0 * covariance * actual["covariance_loss"]
        + 0.5 * actual["variance_loss"]
        + 4.0 * cosine * actual["cosine_loss"]
    )
    torch.testing.assert_close(actual["loss"], expected)


@slot_models
def test_there_is_no_regularizer_in_evaluation(model_type: str) -> None:
    model, plain = make(model_type, **WEIGHTS, **HEAD).eval(), make(model_type).eval()
    actual, expected = losses(model), losses(plain)
    assert actual.keys() == expected.keys()
    torch.testing.assert_close(actual["loss"], expected["loss"])


@slot_models
def test_regularizer_leaves_the_initial_weights_unchanged(model_type: str) -> None:
    plain, actual = make(model_type).state_dict(), make(model_type, **WEIGHTS, **HEAD).state_dict()
    assert {name for name in actual if name not in plain} == {
        f"regularizer.head.{name}" for name in torch.nn.Sequential(*HEAD_LAYERS).state_dict()
    }
    assert all(torch.equal(actual[name], value) for name, value in plain.items())
    without_head = make(model_type, **WEIGHTS).state_dict()
    assert without_head.keys() == plain.keys()


HEAD_LAYERS = (
    torch.nn.Linear(2, 2),
    torch.nn.BatchNorm1d(2),
    torch.nn.ReLU(),
    torch.nn.Linear(2, 2),
    torch.nn.BatchNorm1d(2),
    torch.nn.ReLU(),
    torch.nn.Linear(2, 2),
)


@slot_models
@pytest.mark.parametrize(
    "settings",
    [
        {"covariance_weight": 1.0, **HEAD},
        {"covariance_weight": 1.0, "covariance_of": "slots", "variance_weight": 1.0},
        {"cosine_weight": 1.0, "cosine_warmup": 2},
    ],
)
def test_regularizers_are_trained_and_logged(model_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = make(model_type, **settings)
    trainer = make_trainer(1, limit_val_batches=1)
    trainer.fit(model, make_data())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    expected = {f"train/{name.removesuffix('_weight')}_loss" for name in settings if name.endswith("_weight")}
    assert expected | {"train/unregularized_loss"} <= logged.keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = object_discovery.load(tmp_path / "last.ckpt")
    assert loaded.params == model.params
    assert loaded.state_dict().keys() == model.state_dict().keys()


@slot_models
def test_validation_scores_the_slots_of_the_whole_split(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recorded = make(model_type), []
    score_batch = model.score_batch

    def record_slots(batch: dict[str, Tensor]) -> Any:
        actual, extra = score_batch(batch)
        recorded.append(actual.slots)
        return actual, extra

    monkeypatch.setattr(model, "score_batch", record_slots)
    scores = make_trainer(1).validate(model, make_data(batch_size=4), verbose=False)[0]
    slots = torch.cat(recorded)
    assert [len(part) for part in recorded] == [3, 3]
    assert scores["val/slot_covariance"] == pytest.approx(slot_covariance(slots).item(), rel=1e-6)
    assert scores["val/slot_cosine"] == pytest.approx(slot_cosine(slots).mean().item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["covariance_weight", "covariance_warmup", "variance_weight", "variance_target", "cosine_weight"]
)
def test_weights_and_warm_ups_are_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be at least 0, but got -1"):
        make("sa", **{name: -1})


def test_invalid_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="`projection_size` to be at least 1, but got 0"):
        make("sa", projection_size=0)
    with pytest.raises(ValueError, match="`cosine_warmup` to be at least 0, but got -1"):
        make("sa", cosine_warmup=-1)
    with pytest.raises(ValueError, match="`covariance_of` to be one of features, slots, but got 'no_such'"):
        make("sa", covariance_weight=1.0, covariance_of="no_such")


COVARIANCE = {
    "covariance_weight": 1.0,
    "covariance_of": "features",
    "covariance_divisor": "square",
    "covariance_warmup": 0,
    "variance_weight": 0.0,
    "variance_target": 0.0,
    "projection_size": 1024,
    "projection_norm": "layer",
}
COSINE = {"cosine_weight": 0.01, "cosine_warmup": 0, "projection_size": None}


@pytest.mark.parametrize(("suffix", "regularizers"), [("", {}), ("_covariance", COVARIANCE), ("_cosine", COSINE)])
def test_configs_of_sprites_are_the_published_settings(suffix: str, regularizers: dict[str, Any]) -> None:
    published = {
        "model_type": "sa",
        "dataset": "multi_dsprites",
        "variant": "colored_on_colored",
        "resolution": 64,
        "num_slots": 5,
        "slot_size": 64,
        "batch_size": 64,
        "max_steps": 500_000,
        "lr": 4e-4,
        "lr_schedule": "exponential",
        "warmup_steps": 10_000,
        "half_life": 100_000,
        "clip_norm": None,
        "image_range": "unit",
        "norm_eps": 1e-3,
        "num_iterations": 3,
    }
    config = read_config(f"sa_multi_dsprites_cc{suffix}")
    assert {name: config.get(name, "missing") for name in published | regularizers} == published | regularizers
    assert not {
        name for name in config.keys() - regularizers.keys() if name.startswith(("covariance", "cosine", "variance"))
    }
    model = MODELS["sa"].from_config(f"sa_multi_dsprites_cc{suffix}")
    assert sum(p.numel() for name, p in model.named_parameters() if not name.startswith("regularizer")) == 685_380


def test_gaussian_slot_initialisation_of_multi_dsprites_config() -> None:
    torch.manual_seed(0)
    core = object_discovery.SlotAttentionModel.from_config("sa_multi_dsprites_cc").slot_attention
    assert core.mu.std().item() == pytest.approx(1, abs=0.3)
    assert 0 <= core.log_sigma.min() < 0.1
    assert 0.9 < core.log_sigma.max() < 1


@slot_models
def test_slots_are_initialised_from_clusters_or_inactive(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slot Attention gets the clusters on its own grid, unless initial slots are given."""
    received: list[Tensor | None] = []
    model = make(model_type, cluster_init=True, cluster_min_gain=1.0).eval()
    attend_slots = model.attend_slots

    def record_clusters(*args: Any) -> tuple[Tensor, Tensor]:
        received.append(args[2])
        return attend_slots(*args)

    monkeypatch.setattr(model, "attend_slots", record_clusters)
    images = make_images()
    discovery = model(images)
    (clusters,) = received
    assert clusters is not None
    assert discovery.attention is not None
    assert clusters.shape == discovery.attention.flatten(2).shape
    inactive = clusters.amax(2) == 0
    assert inactive.tolist() == [[False, True, True]] * 2  # a minimal gain of 1 leaves one cluster
    assert (discovery.slots[inactive] == 0).all()
    assert (discovery.attention.flatten(2)[inactive] == 0).all()
    model(images, discovery.slots)
    assert received[1] is None


@slot_models
def test_models_of_pixels_have_cluster_init_by_default(model_type: str) -> None:
    params = cast(SlotParams, MODELS[model_type].params_class())
    assert params.cluster_init == (model_type in ("sa", "slate"))


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("sa", {}),
        ("set_prediction", {}),
        ("slate", {}),
        ("slate", {"mask_source": "decoder"}),
        ("dinosaur", {"mask_source": "attention"}),
        ("dinosaur", {"decoder_top_k": 2}),
        ("dinosaur", {"decoder_top_k": None}),
        ("dinosaur", {"decoder": "transformer", "decoder_heads": 2}),
        ("dinosaur", {"decoder": "broadcast"}),
    ],
    ids=str,
)
def test_inactive_slots_have_zero_masks(model_type: str, settings: dict[str, Any]) -> None:
    model = make(model_type, cluster_init=True, cluster_min_gain=1.0, **settings).eval()
    for discovery in (model(make_images()), model.score_batch(make_batch())[0]):
        assert not discovery.masks[:, 1:].any()  # a minimal gain of 1 leaves one cluster
        torch.testing.assert_close(discovery.masks[:, 0], torch.ones_like(discovery.masks[:, 0]))
    loss = model.train().losses(make_batch())["loss"]
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("model_type", ["sa", "slate", "dinosaur"])
def test_training_with_cluster_init_in_half_precision(model_type: str) -> None:
    trainer = make_trainer(2, precision="bf16-true", limit_val_batches=1)
    trainer.fit(make(model_type, cluster_init=True), make_data())
    assert trainer.callback_metrics["train/loss"].isfinite()
