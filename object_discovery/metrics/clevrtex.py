"""The mIoU of the ClevrTex benchmark, as its evaluator computes it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_discovery.metrics.contingency import contingency_table, iou_of_table


def clevrtex_miou(pred: Tensor, target: Tensor, *, num_slots: int | None = None) -> Tensor:
    """Score each image as ClevrTex's published evaluator does (its foreground mIoU).

    All masks are matched one to one by IoU, the background as an ordinary mask. The IoUs of the true objects are
    summed and divided by the number of pairs in which either mask has a pixel, less one; so spurious predicted masks
    are penalised. That number depends on how pairs without overlap are formed. The evaluator leaves this to SciPy, so
    this score does too: it is computed on the host, for evaluation rather than for every validation step.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        num_slots: Number of predicted labels. None: the largest of `pred` plus one.

    Returns:
        A score for each image, `(B,)`, float64; NaN where there is no true object, or only one mask in all.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Reference:
        Karazija, Laina and Rupprecht, ClevrTex, 2021 (arXiv:2111.10265).

    Example:
        >>> clevrtex_miou(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 0, 1, 1]])).tolist()
        [0.5]
    """
    return clevrtex_miou_of_table(contingency_table(pred, target, num_slots=num_slots))


def clevrtex_miou_of_table(table: Tensor) -> Tensor:
    """Compute ClevrTex's mIoU from contingency tables `(B, P, T)`; see `clevrtex_miou`."""
    ious = iou_of_table(table).cpu().numpy()
    counts = table.cpu().numpy()
    scores = [_score(iou, count) for iou, count in zip(ious, counts, strict=True)]
    return torch.tensor(scores, dtype=torch.float64, device=table.device)


def _score(iou: np.ndarray, count: np.ndarray) -> float:
    in_true, in_pred = count.any(0), count.any(1)
    if not in_true[1:].any():
        return float("nan")
    size = max(len(in_pred), int(np.flatnonzero(in_true)[-1]) + 1)  # both sides are padded to one number of masks
    padded = np.zeros((size, size))
    padded[:, : len(in_pred)] = iou[:, :size].T
    present = np.zeros(size, dtype=bool)
    present[: len(in_pred)] = in_pred
    rows, columns = linear_sum_assignment(padded.astype(np.float32), maximize=True)
    num_pairs = int((in_true[:size] | present[columns]).sum())
    matched = padded[rows, columns][1:].sum()
    return float(matched / (num_pairs - 1)) if num_pairs > 1 else float("nan")
