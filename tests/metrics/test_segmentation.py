"""All segmentation scores and their values for typical errors on scenes of discs."""

import numpy as np
import pytest
import torch
from scipy.ndimage import grey_dilation

from object_discovery.metrics import (
    SegmentationScores,
    adjusted_rand_index,
    clevrtex_miou,
    mean_best_overlap,
    mean_iou,
)

SIZE = 128
Y, X = np.mgrid[:SIZE, :SIZE]


def disc_scenes(count: int = 24) -> tuple[np.ndarray, list[np.ndarray]]:
    """Generate label maps of three to five discs of radius 12 to 18 pixels; later discs occlude earlier ones."""
    generator = np.random.default_rng(0)
    label_maps: list[np.ndarray] = []
    all_centres: list[np.ndarray] = []
    while len(label_maps) < count:
        number = int(generator.integers(3, 6))
        centres, radii = generator.integers(14, SIZE - 14, (number, 2)), generator.integers(12, 19, number)
        labels = np.zeros((SIZE, SIZE), dtype=np.int64)
        for label, ((y, x), radius) in enumerate(zip(centres, radii, strict=True), start=1):
            labels[(Y - y) ** 2 + (X - x) ** 2 <= radius**2] = label
        if min((labels == label).sum() for label in range(1, number + 1)) > 200:
            label_maps.append(labels)
            all_centres.append(centres)
    return np.stack(label_maps), all_centres


def score(pred: np.ndarray, target: np.ndarray) -> dict[str, float]:
    tensors = torch.from_numpy(pred), torch.from_numpy(target)
    metric = SegmentationScores(num_slots=9)
    metric.update(*tensors)
    result = {name: value.item() for name, value in metric.compute().items()}
    return {**result, "clevrtex": clevrtex_miou(*tensors, num_slots=9).mean().item()}


def test_perfect_masks_score_one() -> None:
    target, _ = disc_scenes()
    slots = np.random.default_rng(0).permutation(9)
    result = score(slots[target], target)
    assert result == {"fg_ari": 1, "ari": 1, "mbo_i": 1, "miou": 1, "n_skipped": 0, "clevrtex": 1}


def test_splitting_the_background_lowers_ari_and_clevrtex_miou_only() -> None:
    target, _ = disc_scenes()
    quarter = np.array([0, 6, 7, 8])[2 * (Y // 64) + X // 64]
    result = score(np.where(target == 0, quarter, target), target)
    assert result["fg_ari"] == result["mbo_i"] == result["miou"] == 1
    assert result["ari"] < 0.5
    assert result["clevrtex"] == pytest.approx(0.55, abs=0.05)


def test_dilating_objects_lowers_overlaps_but_not_fg_ari() -> None:
    target, _ = disc_scenes()
    dilated = np.stack([grey_dilation(labels, footprint=(Y - 64) ** 2 + (X - 64) ** 2 <= 16) for labels in target[:3]])
    result = score(np.where(target[:3] > 0, target[:3], dilated), target[:3])
    assert result["fg_ari"] == 1
    assert result["mbo_i"] == pytest.approx(0.64, abs=0.06)
    assert result["miou"] == pytest.approx(result["mbo_i"], abs=1e-12)


def test_merging_two_objects_lowers_fg_ari_and_miou() -> None:
    target, _ = disc_scenes()
    result = score(np.where(target == 2, 1, target), target)
    assert result["fg_ari"] == pytest.approx(0.77, abs=0.12)
    assert result["ari"] == pytest.approx(0.99, abs=0.03)
    assert result["miou"] < result["mbo_i"] < 1


def test_voronoi_cells_have_a_high_fg_ari_and_a_low_mbo() -> None:
    target, centres = disc_scenes()
    distances = [((Y[..., None] - c[:, 0]) ** 2 + (X[..., None] - c[:, 1]) ** 2) for c in centres]
    result = score(np.stack([distance.argmin(-1) for distance in distances]), target)
    assert result["fg_ari"] == pytest.approx(0.92, abs=0.06)
    assert result["mbo_i"] == pytest.approx(0.16, abs=0.06)


def random_labels() -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.randint(0, 5, (2, 11, 12, 12), generator=torch.Generator().manual_seed(0))
    target[3] = 0
    target[4, :6] = 255
    return pred.to(torch.uint8), target.to(torch.uint8)


def test_equals_the_means_of_the_functions() -> None:
    pred, target = random_labels()
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


def test_result_is_independent_of_the_batches() -> None:
    pred, target = random_labels()
    full, ragged = SegmentationScores(5), SegmentationScores(5)
    full.update(pred, target)
    for part in (slice(0, 4), slice(4, 5), slice(5, 11)):
        ragged.update(pred[part], target[part])
    for name, value in full.compute().items():
        assert ragged.compute()[name].item() == pytest.approx(value.item(), abs=1e-12)


def test_unscorable_images_are_skipped_or_one() -> None:
    pred, target = random_labels()
    metrics = SegmentationScores(5), SegmentationScores(5, unscorable="one")
    for metric in metrics:
        metric.update(pred, target)
    skipped, scored_one = (metric.compute() for metric in metrics)
    assert scored_one["fg_ari"].item() == pytest.approx((skipped["fg_ari"].item() * 10 + 1) / 11)
    assert scored_one["ari"].item() == skipped["ari"].item()
    assert scored_one["miou"].item() == skipped["miou"].item()
    with pytest.raises(ValueError, match="`unscorable`"):
        SegmentationScores(unscorable="two")  # type: ignore[arg-type]


def test_result_is_the_same_under_autocast() -> None:
    pred, target = random_labels()
    plain, mixed = SegmentationScores(5), SegmentationScores(5)
    plain.update(pred, target)
    with torch.autocast("cpu", torch.bfloat16):
        mixed.update(pred, target)
        result = mixed.compute()
    assert all(torch.equal(result[name], value) for name, value in plain.compute().items())


def test_update_does_not_synchronise_with_the_device() -> None:
    labels = torch.zeros(4, 16, 16, dtype=torch.uint8, device="meta")  # values on the meta device cannot be read
    SegmentationScores(7).to("meta").update(labels, labels)
    with pytest.raises(RuntimeError):
        SegmentationScores(None).to("meta").update(labels, labels)
