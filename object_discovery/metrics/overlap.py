"""Scores by intersection over union (IoU): best overlap, one-to-one matching, localisation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from object_discovery.metrics.assignment import linear_assignment
from object_discovery.metrics.clevrtex import clevrtex_miou_of_table
from object_discovery.metrics.contingency import contingency_table, iou_of_table
from object_discovery.metrics.mean import ImageMean

MatchVariant = Literal["foreground", "all", "clevrtex"]


def mean_best_overlap(
    pred: Tensor, target: Tensor, *, ignore_background: bool = True, num_slots: int | None = None
) -> Tensor:
    """Average, over the true masks of each image, the best IoU with any predicted mask.

    A map of instances gives mBO-i, a map of classes mBO-c. One predicted mask may serve several true masks.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        ignore_background: Leave the background out of the average; it still counts in the unions.
        num_slots: Number of predicted labels. None: the largest of `pred` plus one, which waits for the device.

    Returns:
        A score for each image, `(B,)`, float64, from 0 to 1; NaN where there is no true mask.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Reference:
        Pont-Tuset et al., Multiscale Combinatorial Grouping, 2015 (arXiv:1503.00848).

    Example:
        >>> mean_best_overlap(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 3, 3]])).tolist()
        [0.5]
    """
    table = contingency_table(pred, target, num_slots=num_slots)
    return best_overlap_of_table(table, ignore_background=ignore_background)


def best_overlap_of_table(table: Tensor, *, ignore_background: bool = True) -> Tensor:
    """Compute the mean best overlap from contingency tables `(B, P, T)`; see `mean_best_overlap`."""
    first = 1 if ignore_background else 0
    best = iou_of_table(table).amax(1)[:, first:]
    return best.sum(1) / _count_masks(table[:, :, first:])


def mean_iou(
    pred: Tensor, target: Tensor, *, variant: MatchVariant = "foreground", num_slots: int | None = None
) -> Tensor:
    """Match predicted to true masks one to one and average the IoU over the true masks of each image.

    The matching maximises the sum of the IoUs. A true mask without a partner scores 0.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        variant: `foreground` matches and averages true objects only; `all` takes the background as one more true
            mask; `clevrtex` is the benchmark's score, see `clevrtex_miou`.
        num_slots: Number of predicted labels. None: the largest of `pred` plus one, which waits for the device.

    Returns:
        A score for each image, `(B,)`, float64, from 0 to 1; NaN where there is no true mask.

    Raises:
        ValueError: If the shapes differ, a label map is not of integers, or `variant` is unknown.

    Example:
        >>> mean_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 3, 4]])).tolist()
        [0.25]
    """
    _check_variant(variant)
    return matched_iou_of_table(contingency_table(pred, target, num_slots=num_slots), variant=variant)


def matched_iou_of_table(table: Tensor, *, variant: MatchVariant = "foreground") -> Tensor:
    """Compute the mean matched IoU from contingency tables `(B, P, T)`; see `mean_iou`."""
    if variant == "clevrtex":
        return clevrtex_miou_of_table(table)
    first = 1 if variant == "foreground" else 0
    iou = iou_of_table(table)[:, :, first:]
    column = linear_assignment(iou, maximize=True).unsqueeze(2)  # (B, P, 1); -1 where a slot has no partner
    matched = iou.gather(2, column.clamp(min=0)).masked_fill(column < 0, 0.0)
    return matched.sum((1, 2)) / _count_masks(table[:, :, first:])


def corloc(pred: Tensor, target: Tensor, *, threshold: float = 0.5, num_slots: int | None = None) -> Tensor:
    """Tell in which images some true object is met by a predicted mask (correct localisation).

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        threshold: The IoU that must be exceeded.
        num_slots: Number of predicted labels. None: the largest of `pred` plus one, which waits for the device.

    Returns:
        1 or 0 for each image, `(B,)`, float64; NaN where there is no true object.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Example:
        >>> corloc(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 3, 3]])).tolist()
        [1.0]
    """
    table = contingency_table(pred, target, num_slots=num_slots)
    found = (iou_of_table(table)[:, :, 1:] > threshold).flatten(1).any(1)
    return found.to(torch.float64).masked_fill(_count_masks(table[:, :, 1:]) == 0, torch.nan)


def _count_masks(table: Tensor) -> Tensor:
    return (table.sum(1) > 0).sum(1)


def _check_variant(variant: str) -> None:
    if variant not in ("foreground", "all", "clevrtex"):
        expected = "to be 'foreground', 'all' or 'clevrtex'"
        raise ValueError(f"Expected argument `variant` {expected}, but got {variant!r}")


class MeanBestOverlap(ImageMean):
    """Mean best overlap over images; images without a true mask are skipped.

    Args:
        num_slots: Number of predicted labels. None: found for each batch, which waits for the device.
        ignore_background: Leave the background out of the average.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    def __init__(self, num_slots: int | None = None, *, ignore_background: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_slots, self.ignore_background = num_slots, ignore_background

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of label maps, each `(B, ...)`."""
        self.add(mean_best_overlap(pred, target, ignore_background=self.ignore_background, num_slots=self.num_slots))


class MeanIoU(ImageMean):
    """Mean matched IoU over images; images without a true mask are skipped.

    Args:
        num_slots: Number of predicted labels. None: found for each batch, which waits for the device.
        variant: `foreground`, `all` or `clevrtex`; see `mean_iou`.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: If `variant` is unknown.
    """

    def __init__(self, num_slots: int | None = None, *, variant: MatchVariant = "foreground", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_variant(variant)
        self.num_slots, self.variant = num_slots, variant

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of label maps, each `(B, ...)`."""
        self.add(mean_iou(pred, target, variant=self.variant, num_slots=self.num_slots))


class CorLoc(ImageMean):
    """Share of the images in which some object is met; images without an object are skipped.

    Args:
        num_slots: Number of predicted labels. None: found for each batch, which waits for the device.
        threshold: The IoU that must be exceeded.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    def __init__(self, num_slots: int | None = None, *, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_slots, self.threshold = num_slots, threshold

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of label maps, each `(B, ...)`."""
        self.add(corloc(pred, target, threshold=self.threshold, num_slots=self.num_slots))
