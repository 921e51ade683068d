import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from object_discovery.metrics import clevrtex_miou, mean_iou


def reference_score(pred: np.ndarray, target: np.ndarray, size: int) -> float:
    """Compute the score as the published evaluator does, on one-hot masks padded to `size`."""
    pred_masks = np.stack([pred == k for k in range(size)]).reshape(size, -1)
    true_masks = np.stack([target == k for k in range(size)]).reshape(size, -1)
    iou = np.zeros((size, size), dtype=np.float32)
    for t, p in np.ndindex(size, size):
        union = (true_masks[t] | pred_masks[p]).sum()
        iou[t, p] = (true_masks[t] & pred_masks[p]).sum() / union if union else 0
    rows, columns = linear_sum_assignment(iou, maximize=True)
    pairs = (true_masks.any(1) | pred_masks[columns].any(1)).sum()
    return float(iou[rows, columns][1:].sum() / (pairs - 1))


def test_equals_the_published_evaluator() -> None:
    generator = np.random.default_rng(0)
    for num_slots, num_true in [(5, 5), (7, 4), (3, 6)]:
        target = generator.integers(0, num_true, (30, 8, 8))
        slots = generator.integers(0, num_slots, 30 * num_true).reshape(30, num_true)  # merges objects
        pred = np.take_along_axis(slots, target.reshape(30, -1), 1).reshape(target.shape)
        pred[:, :4] = np.where(target[:, :4] == 0, num_slots - 1, pred[:, :4])  # splits the background
        scores = clevrtex_miou(torch.from_numpy(pred), torch.from_numpy(target), num_slots=num_slots)
        size = max(num_slots, num_true)
        expected = [reference_score(p, t, size) for p, t in zip(pred, target, strict=True)]
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


def test_spurious_masks_are_penalised_unlike_in_the_foreground_variant() -> None:
    target = torch.tensor([[0, 0, 0, 0, 1, 2, 3]])
    pred = torch.tensor([[0, 4, 5, 6, 1, 2, 3]])
    assert clevrtex_miou(pred, target).item() == pytest.approx(3 / 6)
    assert mean_iou(pred, target, variant="clevrtex").item() == pytest.approx(3 / 6)
    assert mean_iou(pred, target).item() == 1.0


def test_images_without_objects_or_with_one_mask_are_nan() -> None:
    pred = torch.tensor([[0, 1, 1], [0, 0, 0]])
    target = torch.tensor([[0, 0, 255], [2, 2, 2]])
    assert clevrtex_miou(pred, target).isnan().tolist() == [True, True]
