"""How alike the slots of an image are, and how much their features vary together: what regularisers act on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from object_discovery.metrics.mean import FullPrecision, ImageMean


def slot_cosine(slots: Tensor) -> Tensor:
    """Average the cosine of every two different slots of an image.

    Args:
        slots: Slot vectors, `(B, K, D)`; those that are all 0 were left out and do not count.

    Returns:
        Values from -1 to 1, `(B,)`, float32; 0 for a single slot.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> slot_cosine(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 3.0]]]))
        tensor([0., 1.])
    """
    _check(slots)
    count = slots.ne(0).any(2).sum(1)
    directions = F.normalize(slots.detach().float(), dim=2)
    # The sum of all cosines is the squared length of the sum of directions; those of slots with themselves leave it.
    pairs = directions.sum(1).square().sum(1) - directions.square().sum((1, 2))
    return (pairs / (count * (count - 1)).clamp_min(1)).clamp(-1, 1)


def slot_covariance(slots: Tensor) -> Tensor:
    """Average the absolute covariance of every two different features over all slots of all images.

    Args:
        slots: Slot vectors, `(B, K, D)`; those that are all 0 were left out and do not count.

    Returns:
        A scalar, float64, at least 0; 0 for a single feature, NaN for a single slot in all.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> slot_covariance(torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]))
        tensor(2., dtype=torch.float64)
    """
    metric = SlotCovariance(slots.shape[-1])
    metric.to(slots.device)
    metric.update(slots)
    return metric.compute()  # type: ignore[no-any-return]


def _check(slots: Tensor) -> None:
    if slots.ndim != 3:
        raise ValueError(f"Expected argument `slots` to be of shape (B, K, D), but got {tuple(slots.shape)}")


class SlotCosine(ImageMean):
    """The mean over images of `slot_cosine`.

    Example:
        >>> metric = SlotCosine()
        >>> metric.update(torch.ones(2, 3, 4))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    def update(self, slots: Tensor) -> None:
        """Add slots `(B, K, D)`."""
        self.add(slot_cosine(slots), skip_nan=False)


class SlotCovariance(FullPrecision):
    """The value of `slot_covariance` over all slots seen, however they come in batches.

    The state is sums in float64 and a count, and is added up over processes.

    Args:
        slot_size: D.
        kwargs: Arguments of `torchmetrics.Metric`.

    Example:
        >>> metric = SlotCovariance(2)
        >>> metric.update(torch.tensor([[[1.0, -1.0]]]))
        >>> metric.update(torch.tensor([[[-1.0, 1.0]]]))
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    total: Tensor
    products: Tensor
    count: Tensor

    def __init__(self, slot_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(slot_size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(slot_size, slot_size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, slots: Tensor) -> None:
        """Add slots `(B, K, D)`.

        Raises:
            ValueError: If they are of another shape.
        """
        _check(slots)
        rows = slots.detach().flatten(0, 1).to(self.total.device, torch.float64)
        self.total = self.total + rows.sum(0)
        self.products = self.products + rows.T @ rows
        self.count = self.count + rows.ne(0).any(1).sum()

    def compute(self) -> Tensor:
        """Average over every two different features; NaN before two slots were seen."""
        covariance = self.products - self.total[:, None] * self.total / self.count
        size = len(covariance)
        mean = (covariance.abs().sum() - covariance.diagonal().abs().sum()) / max(size * (size - 1), 1)
        return torch.where(self.count > 1, mean / (self.count - 1), torch.nan)
