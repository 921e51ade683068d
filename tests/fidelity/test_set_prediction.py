"""Set prediction (Locatello et al. 2020) against google-research/google-research, slot_attention (TensorFlow)."""

from __future__ import annotations

from math import inf

import pytest
from torch import Tensor

from object_discovery.metrics import AveragePrecision, average_precision
from object_discovery.models.set_prediction import set_loss
from tests.fidelity.official import Official, assert_same

OFFICIAL = Official("set_loss_ap")
LEVELS = OFFICIAL.text("level_names")
THRESHOLDS = [inf if threshold < 0 else threshold for threshold in OFFICIAL["thresholds"].tolist()]
every_level = pytest.mark.parametrize("level", range(len(LEVELS)), ids=LEVELS)


def predictions_and_targets(level: int) -> tuple[Tensor, Tensor]:
    return OFFICIAL["predictions"][level], OFFICIAL["targets"]


@every_level
def test_set_loss_of_each_image_and_of_the_batch(level: int) -> None:
    loss = set_loss(*predictions_and_targets(level))
    assert_same(loss, OFFICIAL["loss_per_case"][level])
    assert_same(loss.mean(), OFFICIAL["loss_batch"][level])


@every_level
def test_cost_of_each_pair_of_target_and_prediction(level: int) -> None:
    pred, target = predictions_and_targets(level)
    of_pred, of_target = pred[:, None].expand(-1, 10, -1, -1), target[:, :, None].expand(-1, -1, 10, -1)
    cost = set_loss(of_pred.reshape(-1, 1, 19), of_target.reshape(-1, 1, 19))  # of sets of one
    assert_same(cost.view(64, 10, 10), OFFICIAL["pairwise_cost"][level])


@every_level
def test_average_precision_at_all_distances(level: int) -> None:
    expected = OFFICIAL["average_precision"][level]
    assert_same(average_precision(*predictions_and_targets(level), THRESHOLDS), expected)


@every_level
def test_average_precision_that_validation_logs(level: int) -> None:
    metric = AveragePrecision()
    pred, target = predictions_and_targets(level)
    for part in (slice(0, 30), slice(30, 41), slice(41, 64)):
        metric.update(pred[part], target[part])
    actual, expected = metric.compute(), OFFICIAL["average_precision"][level]
    assert len(actual) == len(THRESHOLDS)
    for threshold, value in zip(THRESHOLDS, expected, strict=True):
        assert_same(actual[f"ap_{threshold:g}"], value)
