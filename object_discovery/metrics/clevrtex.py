"""Foreground mIoU of the ClevrTex benchmark (Karazija et al. 2021), as its evaluator computes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_discovery.metrics.contingency import contingency_table, iou_from_table


def clevrtex_miou(pred: Tensor, target: Tensor, *, num_slots: int | None = None) -> Tensor:
    """Compute the foreground mIoU of each image as the published evaluator of ClevrTex does.

    All masks are matched one to one by IoU, the background like any other mask. The sum of the IoUs of the true objects
    is divided by the number of matched pairs with at least one non-empty mask, minus one; this penalises spurious
    predicted masks. The number depends on how masks without overlap are paired. The evaluator leaves that to SciPy, and
    so does this function: it runs on the CPU and is meant for evaluation, not for every validation step.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        num_slots: Number of predicted labels. None: the maximum of `pred` plus one.

    Returns:
        Score of each image, `(B,)`, float64; NaN if it has no true object, or no more than one pair of masks.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Reference:
        Karazija, Laina and Rupprecht, ClevrTex, 2021 (arXiv:2111.10265).

    Example:
        >>> clevrtex_miou(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 0, 1, 1]])).tolist()
        [0.5]
    """
    return clevrtex_miou_from_table(contingency_table(pred, target, num_slots=num_slots))


def clevrtex_miou_from_table(table: Tensor) -> Tensor:
    """Compute ClevrTex's mIoU from contingency tables `(B, P, T)`; see `clevrtex_miou`."""
    ious = iou_from_table(table).cpu().numpy()
    counts = table.cpu().numpy()
    scores = [_score(iou, count) for iou, count in zip(ious, counts, strict=True)]
    return torch.tensor(scores, dtype=torch.float64, device=table.device)


def _score(iou: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> float:
    """Score one image by the IoUs and pixel counts `(P, T)` of its masks."""
    in_true, in_pred = count.sum(0) > 0, count.sum(1) > 0
    if not in_true[1:].any():
        return float("nan")
    size = max(len(in_pred), int(np.flatnonzero(in_true)[-1]) + 1)  # pad both to the same number of masks
    padded = np.zeros((size, size))
    padded[:, : len(in_pred)] = iou[:, :size].T
    present = np.zeros(size, dtype=bool)
    present[: len(in_pred)] = in_pred
    rows, columns = linear_sum_assignment(padded.astype(np.float32), maximize=True)
    num_pairs = int((in_true[:size] | present[columns]).sum())
    matched = padded[rows, columns][1:].sum()
    return float(matched / (num_pairs - 1)) if num_pairs > 1 else float("nan")
