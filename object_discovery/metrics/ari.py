"""Adjusted Rand index: how well two segmentations agree, whatever the order of their labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from object_discovery.metrics.contingency import contingency_table
from object_discovery.metrics.mean import ImageMean


def adjusted_rand_index(
    pred: Tensor, target: Tensor, *, ignore_background: bool = True, num_slots: int | None = None
) -> Tensor:
    """Compare two segmentations of each image, whatever the order of their labels.

    Two segmentations that are both one single piece agree fully: one object in one slot scores 1. One object over two
    slots scores 0.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to `num_slots` - 1.
        target: True labels, `(B, ...)`, 0 to 255; 0 is the background, 255 is ignored.
        ignore_background: Score the pixels of true objects only (FG-ARI); any predicted label may be used there.
        num_slots: Number of predicted labels. None: the largest of `pred` plus one, which waits for the device.

    Returns:
        A score for each image, `(B,)`, float64: 1 is perfect, 0 is chance, NaN where no pixel can be scored.

    Raises:
        ValueError: If the shapes differ or a label map is not of integers.

    Reference:
        Hubert and Arabie, Comparing Partitions, 1985.

    Example:
        >>> target = torch.tensor([[0, 0, 1, 1, 2, 2]])
        >>> adjusted_rand_index(torch.tensor([[0, 3, 2, 2, 1, 1]]), target).tolist()
        [1.0]
    """
    table = contingency_table(pred, target, num_slots=num_slots)
    return ari_of_table(table, ignore_background=ignore_background)


def ari_of_table(table: Tensor, *, ignore_background: bool = True) -> Tensor:
    """Compute the adjusted Rand index from contingency tables.

    Pairs of pixels are counted in integers, exactly up to 2e9 pixels an image. Only the last division and its
    products are rounded; no term of the denominator is negative, so the error stays below 1e-15.

    Args:
        table: Numbers of pixels, `(B, P, T)`, int64, as `contingency_table` counts them.
        ignore_background: Leave the true label 0 out.

    Returns:
        A score for each image, `(B,)`, float64; NaN where the table is empty.
    """
    table = table[:, :, 1:] if ignore_background else table
    pixels = table.sum((1, 2))
    both = table.square().sum((1, 2))
    same_pred, same_true = table.sum(2).square().sum(1), table.sum(1).square().sum(1)
    # Ordered pairs of pixels: together in both segmentations, in one of them only, and in neither.
    together = (both - pixels).to(torch.float64)
    pred_only = (same_pred - both).to(torch.float64)
    true_only = (same_true - both).to(torch.float64)
    neither = (pixels.square() - same_pred - same_true + both).to(torch.float64)
    agreement = 2 * (together * neither - pred_only * true_only)
    scale = (together + true_only) * (true_only + neither) + (together + pred_only) * (pred_only + neither)
    score = torch.where((pred_only == 0) & (true_only == 0), 1.0, agreement / scale)
    return score.masked_fill(pixels == 0, torch.nan)


class ARI(ImageMean):
    """Mean adjusted Rand index over all pixels but the ignored ones.

    Args:
        num_slots: Number of predicted labels. None: found for each batch, which waits for the device.
        unscorable: `skip` leaves images with nothing to score out and counts them in `n_skipped`; `one` counts them
            as perfect, as the code of DINOSAUR does (on COCO this adds about 0.6 points of FG-ARI).
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: If `unscorable` is neither.

    Example:
        >>> metric = ARI(num_slots=2)
        >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 5, 5]]))
        >>> metric.compute().item()
        1.0
    """

    ignore_background = False

    def __init__(
        self, num_slots: int | None = None, *, unscorable: Literal["skip", "one"] = "skip", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_slots = num_slots
        self.unscorable = check_unscorable(unscorable)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of label maps, each `(B, ...)`."""
        scores = adjusted_rand_index(pred, target, ignore_background=self.ignore_background, num_slots=self.num_slots)
        self.add(scores.nan_to_num(nan=1.0) if self.unscorable == "one" else scores)


class FGARI(ARI):
    """Mean adjusted Rand index over the pixels of true objects; takes the arguments of `ARI`.

    Example:
        >>> metric = FGARI(num_slots=3)
        >>> metric.update(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 0, 5, 5]]))
        >>> metric.compute().item()
        1.0
    """

    ignore_background = True


def check_unscorable(unscorable: Literal["skip", "one"]) -> Literal["skip", "one"]:
    """Return the argument if it is a known choice.

    Raises:
        ValueError: If it is not.
    """
    if unscorable not in ("skip", "one"):
        raise ValueError(f"Expected argument `unscorable` to be 'skip' or 'one', but got {unscorable!r}")
    return unscorable
