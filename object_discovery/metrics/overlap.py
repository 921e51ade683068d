"""Metrics of intersection over union (IoU): mean best overlap, mean IoU after Hungarian matching, and CorLoc."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from object_discovery.metrics.assignment import linear_assignment
from object_discovery.metrics.clevrtex import clevrtex_miou_from_table
from object_discovery.metrics.contingency import contingency_table, iou_from_table
from object_discovery.metrics.mean import ImageMean

MatchVariant = Literal["foreground", "all", "clevrtex"]


def mean_best_overlap(
    pred: Tensor, target: Tensor, *, ignore_background: bool = True, num_slots: int | None = None
) -> Tensor:
    """Compute the mean best overlap (mBO): the best IoU of each true mask with any predicted mask, averaged.

    Instance label maps give mBO-i, class label maps mBO-c. A predicted mask may be the best of several true masks.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        ignore_background: Exclude the background mask from the mean; its pixels still count in the unions.
        num_slots: Number of predicted labels. None: the maximum of `pred` plus one (waits for the GPU).

    Returns:
        Score of each image, `(B,)`, float64 in [0, 1]; NaN if it has no true mask.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Reference:
        Pont-Tuset et al., Multiscale Combinatorial Grouping for Image Segmentation and Object Proposal Generation, 2015
        (arXiv:1503.00848).

    Example:
        >>> mean_best_overlap(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 3, 3]])).tolist()
        [0.5]
    """
    table = contingency_table(pred, target, num_slots=num_slots)
    return best_overlap_from_table(table, ignore_background=ignore_background)


def best_overlap_from_table(table: Tensor, *, ignore_background: bool = True) -> Tensor:
    """Compute the mean best overlap from contingency tables `(B, P, T)`; see `mean_best_overlap`."""
    first = 1 if ignore_background else 0
    best = iou_from_table(table).amax(1)[:, first:]
    return best.sum(1) / _count_masks(table[:, :, first:])


def mean_iou(
    pred: Tensor, target: Tensor, *, variant: MatchVariant = "foreground", num_slots: int | None = None
) -> Tensor:
    """Compute the mean IoU (mIoU) over the true masks of each image after Hungarian matching with the predicted masks.

    The one-to-one matching maximises the sum of the IoUs. An unmatched true mask scores 0.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        variant: `foreground` matches and averages true objects only; `all` includes the background as a true mask;
            `clevrtex` is the score of that benchmark, see `clevrtex_miou`.
        num_slots: Number of predicted labels. None: the maximum of `pred` plus one (waits for the GPU).

    Returns:
        Score of each image, `(B,)`, float64 in [0, 1]; NaN if it has no true mask.

    Raises:
        ValueError: If the shapes differ, a label map is not of integers, or `variant` is unknown.

    Example:
        >>> mean_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 3, 4]])).tolist()
        [0.25]
    """
    _check_variant(variant)
    return matched_iou_from_table(contingency_table(pred, target, num_slots=num_slots), variant=variant)


def matched_iou_from_table(table: Tensor, *, variant: MatchVariant = "foreground") -> Tensor:
    """Compute the mean matched IoU from contingency tables `(B, P, T)`; see `mean_iou`."""
    if variant == "clevrtex":
        return clevrtex_miou_from_table(table)
    first = 1 if variant == "foreground" else 0
    iou = iou_from_table(table)[:, :, first:]
    column = linear_assignment(iou, maximize=True).unsqueeze(2)  # (B, P, 1); -1 for unmatched slots
    matched = iou.gather(2, column.clamp(min=0)).masked_fill(column < 0, 0.0)
    return matched.sum((1, 2)) / _count_masks(table[:, :, first:])


def corloc(pred: Tensor, target: Tensor, *, threshold: float = 0.5, num_slots: int | None = None) -> Tensor:
    """Compute correct localisation (CorLoc): whether any predicted mask has a high IoU with any true object.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        threshold: IoU that must be exceeded, in [0, 1).
        num_slots: Number of predicted labels. None: the maximum of `pred` plus one (waits for the GPU).

    Returns:
        1 or 0 for each image, `(B,)`, float64; NaN if it has no true object.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Example:
        >>> corloc(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 3, 3]])).tolist()
        [1.0]
    """
    table = contingency_table(pred, target, num_slots=num_slots)
    localised = (iou_from_table(table)[:, :, 1:] > threshold).flatten(1).any(1)
    return localised.to(torch.float64).masked_fill(_count_masks(table[:, :, 1:]) == 0, torch.nan)


def _count_masks(table: Tensor) -> Tensor:
    """Count the true masks of each image, `(B,)`."""
    return (table.sum(1) > 0).sum(1)


def _check_variant(variant: str) -> None:
    if variant not in ("foreground", "all", "clevrtex"):
        expected = "to be 'foreground', 'all' or 'clevrtex'"
        raise ValueError(f"Expected argument `variant` {expected}, but got {variant!r}")


class MeanBestOverlap(ImageMean):
    """Mean best overlap (mBO), averaged over images; images without a true mask are skipped.

    mBO-i with label maps of instances, mBO-c with those of classes.

    Args:
        num_slots: Number of predicted labels. None: the maximum of each batch plus one (waits for the GPU).
        ignore_background: Exclude the background mask from the mean.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    def __init__(self, num_slots: int | None = None, *, ignore_background: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_slots, self.ignore_background = num_slots, ignore_background

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of predicted and true label maps, each `(B, ...)`."""
        self.add(mean_best_overlap(pred, target, ignore_background=self.ignore_background, num_slots=self.num_slots))


class MeanIoU(ImageMean):
    """Mean IoU after Hungarian matching, averaged over images; images without a true mask are skipped.

    Args:
        num_slots: Number of predicted labels. None: the maximum of each batch plus one (waits for the GPU).
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
        """Add a batch of predicted and true label maps, each `(B, ...)`."""
        self.add(mean_iou(pred, target, variant=self.variant, num_slots=self.num_slots))


class CorLoc(ImageMean):
    """Correct localisation (CorLoc), the share of images with a localised object; images without objects are skipped.

    Args:
        num_slots: Number of predicted labels. None: the maximum of each batch plus one (waits for the GPU).
        threshold: IoU that must be exceeded, in [0, 1).
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    def __init__(self, num_slots: int | None = None, *, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_slots, self.threshold = num_slots, threshold

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of predicted and true label maps, each `(B, ...)`."""
        self.add(corloc(pred, target, threshold=self.threshold, num_slots=self.num_slots))
