"""Segmentation scores of ClevrTex (Karazija et al. 2021) and others against seven public repositories, see `OURS`."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from object_discovery.metrics import (
    ARI,
    FGARI,
    MeanBestOverlap,
    MeanIoU,
    SegmentationScores,
    adjusted_rand_index,
    clevrtex_miou,
    mean_best_overlap,
    mean_iou,
)
from tests.fidelity.official import Official, assert_same

OFFICIAL = Official("metrics_scenes")
NAMES, CONDITIONS = OFFICIAL.text("metric"), OFFICIAL.text("condition")
DEGENERATE, DEGENERATE_METRICS = OFFICIAL.text("degenerate_name"), OFFICIAL.text("degenerate_metric")
NUM_SLOTS = 11


class Score(NamedTuple):
    """One of our scores."""

    function: Any
    """Scores each image."""
    metric: Any
    """Its class, which averages over images."""
    settings: dict[str, Any]


FG_ARI = Score(adjusted_rand_index, FGARI, {})
ALL_ARI = Score(adjusted_rand_index, ARI, {"ignore_background": False})
MBO = Score(mean_best_overlap, MeanBestOverlap, {})
MBO_ALL = Score(mean_best_overlap, MeanBestOverlap, {"ignore_background": False})
MIOU = Score(mean_iou, MeanIoU, {})
MIOU_ALL = Score(mean_iou, MeanIoU, {"variant": "all"})
CLEVRTEX = Score(mean_iou, MeanIoU, {"variant": "clevrtex"})

# Beginnings of names: OCLF, amazon-science/object-centric-learning-framework; vsaur, martius-lab/videosaur; psch,
# pschroeppel/DINOSAUR-and-Adaptive-Slot-Attention; ctex, karazijal/clevrtex; addtt, addtt/object-centric-library; g1z,
# Genera1Z/SmoothSA; SlotFormer, pairlab/SlotFormer. Values are in percent, those of degenerate cases from 0 to 1.
OURS = {
    "OCLF fgARI": FG_ARI,
    "vsaur fgARI": FG_ARI,
    "psch fgARI": FG_ARI,
    "ctex ARI_FG": FG_ARI,
    "addtt ARI fg": FG_ARI,
    "ARI(all)": ALL_ARI,
    "ctex ARI": ALL_ARI,
    "addtt ARI all": ALL_ARI,
    "OCLF mBO fg": MBO,
    "psch mBO": MBO,
    "addtt mSC fg": MBO,  # the plain segmentation covering is mBO by another name
    "OCLF mBO +bg": MBO_ALL,
    "g1z mBO(bg in)": MBO_ALL,
    "OCLF mIoU fg": MIOU,
    "SlotFormer mIoU": MIOU,
    "OCLF mIoU +bg": MIOU_ALL,
    "g1z mIoU(bg in)": MIOU_ALL,
    "ctex mIoU_gt": MIOU_ALL,
    "ctex mIoU_fg": CLEVRTEX,
}
every_name = pytest.mark.parametrize("name", OURS)


def predictions() -> list[tuple[Tensor, Tensor]]:
    """Return the predictions under each condition, with the true labels."""
    return [(pred, OFFICIAL["true"]) for pred in OFFICIAL["pred"]]


def to_metric(score: Score) -> Any:
    settings = {} if score.metric is ARI else score.settings
    return score.metric(num_slots=NUM_SLOTS, **settings)


@every_name
def test_score_of_each_image(name: str) -> None:
    score = OURS[name]
    actual = [score.function(*pair, num_slots=NUM_SLOTS, **score.settings) for pair in predictions()]
    assert_same(100 * torch.stack(actual), OFFICIAL["value_per_image"][NAMES.index(name)])


@every_name
def test_score_of_all_images(name: str) -> None:
    actual = []
    for pred, true in predictions():
        metric = to_metric(OURS[name])
        for part in (slice(0, 20), slice(20, 32)):
            metric.update(pred[part], true[part])
        actual.append(100 * metric.compute())
    assert_same(torch.stack(actual), OFFICIAL["value"][NAMES.index(name)])


def test_clevrtex_score_by_its_own_function() -> None:
    actual = [clevrtex_miou(*pair, num_slots=NUM_SLOTS) for pair in predictions()]
    assert_same(100 * torch.stack(actual), OFFICIAL["value_per_image"][NAMES.index("ctex mIoU_fg")])


@pytest.mark.parametrize("condition", range(len(CONDITIONS)), ids=CONDITIONS)
def test_scores_that_validation_logs(condition: int) -> None:
    scores = SegmentationScores(num_slots=NUM_SLOTS)
    scores.update(*predictions()[condition])
    actual = scores.compute()
    names = {"fg_ari": "OCLF fgARI", "ari": "ARI(all)", "mbo_i": "OCLF mBO fg", "miou": "OCLF mIoU fg"}
    expected = torch.stack([OFFICIAL["value"][NAMES.index(name), condition] for name in names.values()])
    assert_same(100 * torch.stack([actual[name] for name in names]), expected)
    assert actual["n_skipped"] == 0


def degenerate(case: str, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the prediction, true labels and official value (a fraction) of a degenerate case."""
    index = DEGENERATE.index(case)
    value = OFFICIAL["degenerate_value"][DEGENERATE_METRICS.index(name), index]
    return OFFICIAL["degenerate_pred"][[index]], OFFICIAL["degenerate_true"][[index]], value


@pytest.mark.parametrize("case", DEGENERATE[1:])
@pytest.mark.parametrize("name", [name for name in OURS if name in DEGENERATE_METRICS])
def test_score_of_one_object_in_one_slot_or_two(case: str, name: str) -> None:
    pred, true, expected = degenerate(case, name)
    score = OURS[name]
    actual = score.function(pred, true, num_slots=NUM_SLOTS, **score.settings)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_ari_without_an_object() -> None:
    pred, true, expected = degenerate("no_object_4_slots", "ARI(all)")
    actual = adjusted_rand_index(pred, true, ignore_background=False)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["OCLF fgARI", "vsaur fgARI", "psch fgARI"])
def test_images_without_an_object_count_as_one_in_fg_ari_if_asked(name: str) -> None:
    pred, true, expected = degenerate("no_object_4_slots", name)
    metric = FGARI(unscorable="one")
    metric.update(pred, true)
    torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["SlotFormer mIoU", "ctex mIoU_fg", "ctex ARI_FG"])
def test_scores_undefined_without_an_object(name: str) -> None:
    pred, true, expected = degenerate("no_object_4_slots", name)
    score = OURS[name]
    assert expected.isnan()
    assert score.function(pred, true, num_slots=NUM_SLOTS, **score.settings).isnan().all()


def test_images_without_an_object_are_left_out_of_the_mean_best_overlap() -> None:
    metric = MeanBestOverlap(NUM_SLOTS)
    metric.update(OFFICIAL["degenerate_pred"], OFFICIAL["degenerate_true"])
    counted = OFFICIAL["degenerate_value"][DEGENERATE_METRICS.index("OCLF mBO fg images counted")]
    values = OFFICIAL["degenerate_value"][DEGENERATE_METRICS.index("OCLF mBO fg")]
    assert metric.count == counted.sum()
    assert metric.n_skipped == (1 - counted).sum()
    assert_same(metric.compute(), (values * counted).sum() / counted.sum())
