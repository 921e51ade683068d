import itertools

import numpy as np
import pytest
import torch

from object_discovery.metrics import CorLoc, MeanBestOverlap, MeanIoU, corloc, mean_best_overlap, mean_iou

SLOTS = 4


def random_labels() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    target = generator.choice([0, 0, 2, 9, 200, 255], (40, 5, 5))
    pred = generator.integers(0, SLOTS, target.shape)
    pred[::2] = np.where(generator.random(pred[::2].shape) < 0.7, np.minimum(target[::2], 3), pred[::2])
    target[-1] = 0
    return pred, target


def pairwise_iou(pred: np.ndarray, target: np.ndarray, labels: list[int]) -> list[list[float]]:
    valid = target != 255
    table = []
    for slot in range(SLOTS):
        masks = [((pred == slot) & valid, target == label) for label in labels]
        table.append([(a & b).sum() / (a | b).sum() for a, b in masks])
    return table


def best_matching(table: list[list[float]]) -> float:
    size = max(len(table), len(table[0]))
    padded = np.zeros((size, size))
    padded[: len(table), : len(table[0])] = table
    return max(float(sum(padded[order[t], t] for t in range(size))) for order in itertools.permutations(range(size)))


@pytest.mark.parametrize("ignore_background", [True, False])
def test_equals_brute_force(ignore_background: bool) -> None:
    pred, target = random_labels()
    tensors = torch.from_numpy(pred), torch.from_numpy(target)
    best = mean_best_overlap(*tensors, ignore_background=ignore_background, num_slots=SLOTS)
    matched = mean_iou(*tensors, variant="foreground" if ignore_background else "all", num_slots=SLOTS)
    localised = corloc(*tensors, num_slots=SLOTS)
    for image, (predicted, true) in enumerate(zip(pred, target, strict=True)):
        labels = [int(t) for t in np.unique(true) if t != 255 and (t > 0 or not ignore_background)]
        if not labels:
            assert best[image].isnan()
            assert matched[image].isnan()
            assert localised[image].isnan()
            continue
        table = pairwise_iou(predicted, true, labels)
        assert best[image].item() == pytest.approx(np.max(table, axis=0).mean(), abs=1e-12)
        assert matched[image].item() == pytest.approx(best_matching(table) / len(labels), abs=1e-12)
        if ignore_background:
            assert localised[image].item() == float(np.max(table) > 0.5)


def test_unmatched_objects_score_zero() -> None:
    pred, target = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1, 2, 3, 4]])
    assert mean_iou(pred, target, num_slots=2).item() == 0.25
    assert mean_best_overlap(pred, target, num_slots=2).item() == 0.5


def test_corloc_threshold_must_be_exceeded() -> None:
    pred, target = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1]])
    assert corloc(pred, target).item() == 0
    assert corloc(pred, target, threshold=0.49).item() == 1


def test_invariant_to_permutations_of_the_labels() -> None:
    pred, target = (torch.from_numpy(labels) for labels in random_labels())
    slots = torch.tensor([2, 0, 3, 1])
    objects = torch.arange(256)
    objects[[2, 9, 200]] = torch.tensor([254, 1, 2])
    for score in (mean_best_overlap, mean_iou, corloc):
        torch.testing.assert_close(score(slots[pred], objects[target]), score(pred, target), equal_nan=True)


def test_classes_compute_the_mean_over_images_with_objects() -> None:
    pred, target = (torch.from_numpy(labels) for labels in random_labels())
    scores = {
        MeanBestOverlap(SLOTS): mean_best_overlap(pred, target),
        MeanBestOverlap(SLOTS, ignore_background=False): mean_best_overlap(pred, target, ignore_background=False),
        MeanIoU(SLOTS): mean_iou(pred, target),
        MeanIoU(SLOTS, variant="clevrtex"): mean_iou(pred, target, variant="clevrtex"),
        CorLoc(SLOTS, threshold=0.3): corloc(pred, target, threshold=0.3),
    }
    for metric, expected in scores.items():
        metric.update(pred[:33], target[:33])
        metric.update(pred[33:], target[33:])
        assert metric.compute().item() == pytest.approx(expected.nanmean().item(), abs=1e-12)
        assert metric.n_skipped.item() == expected.isnan().sum().item()


def test_unknown_variant_is_refused() -> None:
    labels = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="`variant` to be 'foreground', 'all' or 'clevrtex', but got 'best'"):
        mean_iou(labels, labels, variant="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`variant`"):
        MeanIoU(variant="best")  # type: ignore[arg-type]
