import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_discovery import SetPrediction
from object_discovery.configs import read_config
from object_discovery.data.object_encoding import ATTRIBUTES, NUM_COLUMNS
from object_discovery.errors import UserError
from object_discovery.layers.encoder import ConvEncoder
from object_discovery.metrics import average_precision
from object_discovery.metrics.average_precision import ATTRIBUTE_SIZES, COLUMNS, THRESHOLDS
from object_discovery.models.set_prediction import encoder_shape, match_objects, set_loss
from tests.models.tiny import SIZE, TINY, make_data, make_images, make_objects, make_trainer


def make(**settings: Any) -> SetPrediction:
    torch.manual_seed(0)
    return SetPrediction(**{**TINY["set_prediction"], **settings})


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, 19, generator=torch.Generator().manual_seed(seed))


def test_published_number_of_parameters() -> None:
    model = SetPrediction.from_config("set_prediction_clevr")
    assert sum(parameter.numel() for parameter in model.parameters()) == 380_755


def test_config_has_the_published_settings() -> None:
    expected = {
        "model_type": "set_prediction",
        "dataset": "clevr",
        "fit": "squash",
        "resolution": 128,
        "num_slots": 10,
        "batch_size": 512,
        "max_steps": 150_000,
        "lr": 4e-4,
        "lr_schedule": "exponential",
        "warmup_steps": 1000,
        "half_life": 50_000,
        "clip_norm": None,
        "coordinate_weight": 1.0,
        "property_loss": "huber",
        "slot_size": 64,
        "mlp_size": 128,
        "head_size": 64,
        "num_iterations": 3,
        "slot_init": "gaussian",
        "gradient": "full",
        "encoder_channels": [64] * 4,
        "encoder_strides": [1, 2, 2, 1],
        "encoder_kernel": 5,
        "encoder_residual": False,
        "position_frequencies": 0,
        "weight_init": "keras",
        "norm_eps": 1e-3,
    }
    config = read_config("set_prediction_clevr")
    assert {key: config.get(key, "missing") for key in expected} == expected
    model = SetPrediction.from_config("set_prediction_clevr")
    assert model.encoder.size == 32
    model._total_steps = 150_000
    for step, rate in ((500, 2e-4 * 0.5**0.01), (1000, 4e-4 * 0.5**0.02), (50_000, 2e-4), (150_000, 5e-5)):
        assert model.params.lr * model.learning_rate_factor(step) == pytest.approx(rate)


def test_data_and_metric_agree_on_the_columns() -> None:
    assert tuple(map(len, ATTRIBUTES.values())) == ATTRIBUTE_SIZES
    assert COLUMNS == NUM_COLUMNS == 19
    assert (math.inf, 1, 0.5, 0.25, 0.125) == THRESHOLDS


@pytest.mark.parametrize(("resolution", "size"), [(16, 4), (35, 9), (64, 16), (128, 32), (240, 30)])
def test_recommended_encoder(resolution: int, size: int) -> None:
    channels, strides = encoder_shape(resolution)
    assert ConvEncoder(resolution, channels, strides).size == size
    assert strides.count(1) == 4


@pytest.mark.parametrize("weight", [1.0, 7.5])
def test_loss_equals_huber_of_the_matching_of_scipy(weight: float) -> None:
    pred, target = 3 * rows(6, 5), rows(6, 5, seed=1)  # errors below and above 1
    weights = torch.tensor([weight] * 3 + [1.0] * 16)
    expected = []
    for predicted, true in zip(pred, target, strict=True):
        pairs = predicted[:, None].expand(-1, 5, -1), true[None].expand(5, -1, -1)
        cost = (weights * F.huber_loss(*pairs, reduction="none", delta=1.0)).mean(-1)
        expected.append(cost[linear_sum_assignment(cost)].sum())
    torch.testing.assert_close(set_loss(pred, target, weight), torch.stack(expected))


def test_cross_entropy_of_padding_counts_presence_only() -> None:
    pred, target = rows(6, 5), make_objects(6)[:, :2].repeat(1, 2, 1)
    padded_target = F.pad(target, (0, 0, 0, 1))
    expected = []
    for predicted, true in zip(pred, padded_target, strict=True):
        pairs = predicted[:, None].expand(-1, 5, -1), true[None].expand(5, -1, -1)
        coordinate_cost = 7.5 * 0.5 * (pairs[0] - pairs[1])[..., :3].square().sum(-1)
        entropy = F.binary_cross_entropy(*pairs, reduction="none")
        cost = (true[:, -1] * (coordinate_cost + entropy[..., 3:18].sum(-1)) + entropy[..., 18]) / 19
        expected.append(cost[linear_sum_assignment(cost)].sum())
    torch.testing.assert_close(set_loss(pred, target, 7.5, "cross_entropy"), torch.stack(expected))


def test_cross_entropy_of_saturated_predictions_is_finite_and_zero_if_correct() -> None:
    target = make_objects(2)
    assert set_loss(target, target, property_loss="cross_entropy").abs().max() < 1e-4
    wrong = (1 - target).requires_grad_()
    loss = set_loss(wrong, target, property_loss="cross_entropy").sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss > 1
    assert wrong.grad is not None
    assert torch.isfinite(wrong.grad).all()


def test_huber_loss_of_single_errors() -> None:
    target = torch.zeros(1, 1, 19)
    for error, loss in ((0.0, 0.0), (0.5, 0.125), (-1.0, 0.5), (3.0, 2.5)):
        pred = target.clone()
        pred[..., 18] = error
        assert set_loss(pred, target).item() == pytest.approx(loss / 19)
        assert set_loss(pred.roll(1, -1), target, 4.0).item() == pytest.approx(4 * loss / 19)


def test_loss_is_invariant_to_permutations_of_targets_and_predictions() -> None:
    pred, target = rows(4, 10), make_objects(4).repeat(1, 3, 1)
    expected = set_loss(pred, target, 5.0)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        slots, objects = torch.randperm(10, generator=generator), torch.randperm(9, generator=generator)
        torch.testing.assert_close(set_loss(pred[:, slots], target[:, objects], 5.0), expected)


def test_predictions_are_equivariant_to_permutations_of_initial_slots() -> None:
    model = make().eval()
    initial_slots, order = torch.randn(2, 3, 16), torch.tensor([2, 0, 1])
    images, objects = make_images(), make_objects()
    pred, permuted = (model.predict(images, slots=slots) for slots in (initial_slots, initial_slots[:, order]))
    torch.testing.assert_close(permuted, pred[:, order])
    torch.testing.assert_close(set_loss(permuted, objects[:, order]), set_loss(pred, objects))


def test_more_slots_than_rows_equal_zero_padding() -> None:
    pred, target = rows(3, 4), rows(3, 2, seed=1)
    padded = torch.cat([target, torch.zeros(3, 2, 19)], dim=1)
    torch.testing.assert_close(set_loss(pred, target), set_loss(pred, padded))


def test_fewer_slots_than_rows_drop_padding_first() -> None:
    objects = rows(1, 5, seed=1)
    objects[..., 18] = torch.tensor([1.0, 0, 0, 1, 0])
    objects[:, [1, 2, 4]] = 0
    pred = 0.01 * rows(1, 3)  # padding has the lowest cost
    matched = match_objects(pred, objects)[0]
    assert sorted(matched[:, 18].tolist()) == [0, 1, 1]
    best = min(set_loss(pred, objects[:, [0, 3, index]]).item() for index in (1, 2, 4))
    assert set_loss(pred, objects).item() == pytest.approx(best)


def test_fewer_slots_than_objects_match_at_minimal_cost() -> None:
    pred, target = rows(1, 2), rows(1, 4, seed=1)
    best = min(set_loss(pred, target[:, list(subset)]).item() for subset in itertools.combinations(range(4), 2))
    assert set_loss(pred, target).item() == pytest.approx(best)


@pytest.mark.parametrize("shape", [(2, 3, 18), (1, 3, 19), (3, 19)])
def test_targets_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`target` to be of shape \(B, O, D\) for predictions of \(2, 3, 19\), but"):
        set_loss(torch.zeros(2, 3, 19), torch.zeros(shape))


def test_images_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"`images` to be \(B, 3, {SIZE}, {SIZE}\), but got \(2, 3, 8, 8\)"):
        make()(torch.zeros(2, 3, 8, 8))


def test_data_without_objects_are_refused() -> None:
    with pytest.raises(UserError, match=r"Expected batches with `objects`, but got image, mask: .*scenes, clevr"):
        make().losses({"image": make_images(), "mask": torch.zeros(2, SIZE, SIZE)})


def test_model_loss_is_the_mean_over_images() -> None:
    model = make(slot_init="learned", coordinate_weight=3.0)
    images, objects = make_images(), make_objects()
    expected = set_loss(model.predict(images), objects, 3.0, model.params.property_loss).mean()
    torch.testing.assert_close(model.losses({"image": images, "objects": objects})["loss"], expected)


def test_forward_pass_equals_its_layers() -> None:
    model = make(slot_init="learned")
    images = make_images()
    slots, attention = model.slot_attention(model.encoder(2 * images - 1))
    discovery = model(images)
    torch.testing.assert_close(discovery.slots, slots)
    grid = attention.view(2, 3, SIZE // 2, SIZE // 2)
    torch.testing.assert_close(discovery.masks, F.interpolate(grid, scale_factor=2, mode="bilinear"))
    torch.testing.assert_close(model.predict(images), model.head(slots).sigmoid())
    assert discovery.image is discovery.slot_images is None


def test_gaussian_slot_initialisation_allows_any_number_of_slots() -> None:
    model = make(slot_init="gaussian").eval()
    assert model.predict(make_images(), num_slots=5, num_iterations=1).shape == (2, 5, 19)
    torch.manual_seed(0)
    first = model.predict(make_images())
    assert not torch.equal(model.predict(make_images()), first)
    torch.manual_seed(0)
    assert torch.equal(model.predict(make_images()), first)


def test_properties_are_float32_under_autocast() -> None:
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.predict(make_images()).dtype == torch.float32
        assert set_loss(rows(2, 3).bfloat16(), make_objects()).dtype == torch.float32


def test_validation_logs_the_average_precision_of_all_images() -> None:
    model = make(slot_init="learned", weight_init="kmeans").eval()
    data = make_data()
    actual = make_trainer(1).validate(model, data, verbose=False)[0]
    batches = [model.on_after_batch_transfer(batch) for batch in data.val_dataloader()]
    with torch.no_grad():
        pred = torch.cat([model.predict(batch["image"]) for batch in batches])
    expected = average_precision(pred, torch.cat([batch["objects"] for batch in batches])).tolist()
    names = ("ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125")
    assert [actual[f"val/{name}"] for name in names] == pytest.approx(expected)


def test_scenes_without_objects_are_not_scored() -> None:
    model = make().eval()
    model._score("test", {"image": make_images()})
    assert not model.scores["test"].compute().keys() & {"ap_inf", "ap_1"}  # type: ignore[operator]


def test_overfits_a_few_scenes() -> None:
    model = make(slot_size=32, mlp_size=32, head_size=32, encoder_channels=[16], slot_init="learned")
    batch = {"image": make_images(4), "objects": make_objects(4)}
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = model.losses(batch)["loss"].item()
    for _ in range(200):
        loss = model.losses(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.1 * first
    assert average_precision(model.predict(batch["image"]), batch["objects"])[0] > 0.95
