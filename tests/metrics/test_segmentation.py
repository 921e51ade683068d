"""The scores together, and their behaviour on scenes whose result is known beforehand."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import grey_dilation
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from object_discovery.metrics import (
    SegmentationScores,
    adjusted_rand_index,
    clevrtex_miou,
    linear_assignment,
    mean_best_overlap,
    mean_iou,
    overlap,
    segmentation_metrics,
)

SIZE = 128
Y, X = np.mgrid[:SIZE, :SIZE]


def draw_scenes(count: int = 24) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw discs of 12 to 18 pixels radius, three to five in a scene, the later in front."""
    generator = np.random.default_rng(0)
    maps: list[np.ndarray] = []
    all_centres: list[np.ndarray] = []
    while len(maps) < count:
        number = int(generator.integers(3, 6))
        centres, radii = generator.integers(14, SIZE - 14, (number, 2)), generator.integers(12, 19, number)
        labels = np.zeros((SIZE, SIZE), dtype=np.int64)
        for label, ((y, x), radius) in enumerate(zip(centres, radii, strict=True), start=1):
            labels[(Y - y) ** 2 + (X - x) ** 2 <= radius**2] = label
        if min((labels == label).sum() for label in range(1, number + 1)) > 200:
            maps.append(labels)
            all_centres.append(centres)
    return np.stack(maps), all_centres


def score(pred: np.ndarray, target: np.ndarray) -> dict[str, float]:
    tensors = torch.from_numpy(pred), torch.from_numpy(target)
    metric = SegmentationScores(num_slots=9)
    metric.update(*tensors)
    result = {name: value.item() for name, value in metric.compute().items()}
    return {**result, "clevrtex": clevrtex_miou(*tensors, num_slots=9).mean().item()}


def test_perfect_masks_score_one() -> None:
    target, _ = draw_scenes()
    names = np.random.default_rng(0).permutation(9)
    result = score(names[target], target)
    assert result == {"fg_ari": 1, "ari": 1, "mbo_i": 1, "miou": 1, "n_skipped": 0, "clevrtex": 1}


def test_background_split_in_four_is_seen_by_ari_only() -> None:
    target, _ = draw_scenes()
    quarter = np.array([0, 6, 7, 8])[2 * (Y // 64) + X // 64]
    result = score(np.where(target == 0, quarter, target), target)
    assert result["fg_ari"] == result["mbo_i"] == result["miou"] == 1
    assert result["ari"] < 0.5
    assert result["clevrtex"] == pytest.approx(0.55, abs=0.05)


def test_dilated_objects_are_seen_by_overlap_only() -> None:
    target, _ = draw_scenes()
    dilated = np.stack([grey_dilation(labels, footprint=(Y - 64) ** 2 + (X - 64) ** 2 <= 16) for labels in target[:3]])
    result = score(np.where(target[:3] > 0, target[:3], dilated), target[:3])
    assert result["fg_ari"] == 1
    assert result["mbo_i"] == pytest.approx(0.64, abs=0.06)
    assert result["miou"] == pytest.approx(result["mbo_i"], abs=1e-12)


def test_merged_objects_are_seen_by_fg_ari_and_matching() -> None:
    target, _ = draw_scenes()
    result = score(np.where(target == 2, 1, target), target)
    assert result["fg_ari"] == pytest.approx(0.77, abs=0.12)
    assert result["ari"] == pytest.approx(0.99, abs=0.03)
    assert result["miou"] < result["mbo_i"] < 1


def test_voronoi_cells_deceive_fg_ari() -> None:
    target, centres = draw_scenes()
    distances = [((Y[..., None] - c[:, 0]) ** 2 + (X[..., None] - c[:, 1]) ** 2) for c in centres]
    result = score(np.stack([distance.argmin(-1) for distance in distances]), target)
    assert result["fg_ari"] == pytest.approx(0.92, abs=0.06)
    assert result["mbo_i"] == pytest.approx(0.16, abs=0.06)


def draw_labels() -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.randint(0, 5, (2, 11, 12, 12), generator=torch.Generator().manual_seed(0))
    target[3] = 0
    target[4, :6] = 255
    return pred.to(torch.uint8), target.to(torch.uint8)


def test_scores_are_the_means_of_the_functions() -> None:
    pred, target = draw_labels()
    metric = SegmentationScores(5)
    metric.update(pred, target)
    result = metric.compute()
    expected = {
        "fg_ari": adjusted_rand_index(pred, target).nanmean(),
        "ari": adjusted_rand_index(pred, target, ignore_background=False).mean(),
        "mbo_i": mean_best_overlap(pred, target).nanmean(),
        "miou": mean_iou(pred, target).nanmean(),
    }
    assert all(result[name].item() == pytest.approx(value.item(), abs=1e-12) for name, value in expected.items())
    assert result["n_skipped"].item() == 1


def test_result_does_not_depend_on_the_batches() -> None:
    pred, target = draw_labels()
    whole, ragged = SegmentationScores(5), SegmentationScores(5)
    whole.update(pred, target)
    for part in (slice(0, 4), slice(4, 5), slice(5, 11)):
        ragged.update(pred[part], target[part])
    for name, value in whole.compute().items():
        assert ragged.compute()[name].item() == pytest.approx(value.item(), abs=1e-12)


def test_unscorable_images_may_count_as_one() -> None:
    pred, target = draw_labels()
    skip, one = SegmentationScores(5), SegmentationScores(5, unscorable="one")
    skip.update(pred, target)
    one.update(pred, target)
    skipped, counted = skip.compute(), one.compute()
    assert counted["fg_ari"].item() == pytest.approx((skipped["fg_ari"].item() * 10 + 1) / 11)
    assert counted["ari"].item() == skipped["ari"].item()
    assert counted["miou"].item() == skipped["miou"].item()
    with pytest.raises(ValueError, match="`unscorable`"):
        SegmentationScores(unscorable="two")  # type: ignore[arg-type]


def test_autocast_changes_nothing() -> None:
    pred, target = draw_labels()
    plain, mixed = SegmentationScores(5), SegmentationScores(5)
    plain.update(pred, target)
    with torch.autocast("cpu", torch.bfloat16):
        mixed.update(pred, target)
        result = mixed.compute()
    assert all(torch.equal(result[name], value) for name, value in plain.compute().items())


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_update_reads_nothing_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = partial(linear_assignment, batched=True)  # as on any device but the CPU
    monkeypatch.setattr(overlap, "linear_assignment", elsewhere)
    with FakeTensorMode():
        labels = torch.zeros(4, 16, 16, dtype=torch.uint8)
        SegmentationScores(7).update(labels, labels)
        with pytest.raises(DataDependentOutputException):  # the check can fail
            SegmentationScores(None).update(labels, labels)


def test_collection_gives_every_score_under_the_prefix() -> None:
    pred, target = draw_labels()
    metrics = segmentation_metrics(5, prefix="val/")
    metrics.update(pred, target)
    metrics.update(pred, target)
    single = SegmentationScores(5)
    single.update(pred, target)
    expected = {f"val/{name}": value.item() for name, value in single.compute().items()}
    expected["val/n_skipped"] *= 2
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(expected)
    metrics.reset()
    metrics.update(pred[:1], target[:1])
    assert metrics.compute()["val/n_skipped"] == 0
