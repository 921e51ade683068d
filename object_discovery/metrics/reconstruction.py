"""Squared reconstruction error of images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from object_discovery.metrics.contingency import move_off_mps
from object_discovery.metrics.mean import ImageMean

Reduction = Literal["mean", "sum"]


def reconstruction_error(pred: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute the squared error of each image.

    Args:
        pred: Reconstructions, `(B, ...)`, floats.
        target: Images of the same shape and range, floats. ClevrTex reports errors of 3 x 128 x 128 pixels in [0, 1].
        reduction: Over the elements of an image: `mean`, or `sum` as in ClevrTex.

    Returns:
        Error of each image, `(B,)`, float64.

    Raises:
        ValueError: If the shapes differ, a tensor is not floating-point, or `reduction` is unknown.

    Example:
        >>> reconstruction_error(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), reduction="sum").tolist()
        [12.0]
    """
    _check_reduction(reduction)
    if pred.shape != target.shape or pred.ndim < 2:
        expected = f"to have one shape (B, ...), but got {tuple(pred.shape)} and {tuple(target.shape)}"
        raise ValueError(f"Expected arguments `pred` and `target` {expected}")
    if not (pred.is_floating_point() and target.is_floating_point()):
        expected = f"to be floats, but got {pred.dtype} and {target.dtype}; scale uint8 images to [0, 1]"
        raise ValueError(f"Expected arguments `pred` and `target` {expected}")
    pred, target = move_off_mps(pred.detach()).flatten(1), move_off_mps(target.detach()).flatten(1)
    squares = (pred.to(torch.float32) - target.to(torch.float32)).square()
    total = squares.sum(1, dtype=torch.float64)
    return total if reduction == "sum" else total / squares.shape[1]


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"Expected argument `reduction` to be 'mean' or 'sum', but got {reduction!r}")


class ReconstructionError(ImageMean):
    """Squared reconstruction error, averaged over images; a NaN in a reconstruction makes the result NaN.

    Args:
        reduction: Over the elements of an image: `mean`, or `sum` as in ClevrTex.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: If `reduction` is unknown.
    """

    def __init__(self, reduction: Reduction = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_reduction(reduction)
        self.reduction: Reduction = reduction

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of reconstructions and images, each `(B, ...)`."""
        self.add(reconstruction_error(pred, target, reduction=self.reduction), skip_nan=False)
