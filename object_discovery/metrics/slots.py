"""Similarity of slots and covariance of their features, the quantities that the regularisers of slots penalise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from object_discovery.metrics.mean import FixedDtypeMetric, ImageMean


def slot_cosine(slots: Tensor) -> Tensor:
    """Compute the cosine similarity of the slots of each image, averaged over all pairs of different slots.

    Args:
        slots: Slot vectors, `(B, K, D)`; inactive (masked) slots are 0 and are excluded.

    Returns:
        Mean similarity in [-1, 1], `(B,)`, float32; 0 for a single slot.

    Raises:
        ValueError: If `slots` is not three-dimensional.

    Example:
        >>> slot_cosine(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 3.0]]]))
        tensor([0., 1.])
    """
    _check_shape(slots)
    count = slots.ne(0).any(2).sum(1)
    directions = F.normalize(slots.detach().float(), dim=2)
    # The similarities of all pairs sum to the squared norm of the sum; subtract those of slots with themselves.
    pairs = directions.sum(1).square().sum(1) - directions.square().sum((1, 2))
    return (pairs / (count * (count - 1)).clamp_min(1)).clamp(-1, 1)


def slot_covariance(slots: Tensor) -> Tensor:
    """Compute the mean absolute off-diagonal entry of the covariance matrix of the slots of all images.

    Args:
        slots: Slot vectors, `(B, K, D)`; inactive (masked) slots are 0 and are excluded.

    Returns:
        A scalar, float64, at least 0; 0 if D is 1, NaN if there is only one slot in all images.

    Raises:
        ValueError: If `slots` is not three-dimensional.

    Example:
        >>> slot_covariance(torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]))
        tensor(2., dtype=torch.float64)
    """
    metric = SlotCovariance(slots.shape[-1])
    metric.to(slots.device)
    metric.update(slots)
    return metric.compute()  # type: ignore[no-any-return]


def _check_shape(slots: Tensor) -> None:
    if slots.ndim != 3:
        raise ValueError(f"Expected argument `slots` to be of shape (B, K, D), but got {tuple(slots.shape)}")


class SlotCosine(ImageMean):
    """Cosine similarity of the slots of an image (`slot_cosine`), averaged over images.

    Example:
        >>> metric = SlotCosine()
        >>> metric.update(torch.ones(2, 3, 4))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    def update(self, slots: Tensor) -> None:
        """Add a batch of slots, `(B, K, D)`."""
        self.add(slot_cosine(slots), skip_nan=False)


class SlotCovariance(FixedDtypeMetric):
    """Covariance of slot features (`slot_covariance`) over all slots so far, whatever the batches.

    The state is the sums of first and second moments in float64 and a count; it is summed over processes.

    Args:
        slot_size: Size of a slot, D.
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
        """Add a batch of slots, `(B, K, D)`.

        Raises:
            ValueError: If `slots` is not three-dimensional.
        """
        _check_shape(slots)
        rows = slots.detach().flatten(0, 1).to(self.total.device, torch.float64)
        self.total = self.total + rows.sum(0)
        self.products = self.products + rows.T @ rows
        self.count = self.count + rows.ne(0).any(1).sum()

    def compute(self) -> Tensor:
        """Compute the mean absolute off-diagonal covariance; NaN for fewer than two slots."""
        covariance = self.products - self.total[:, None] * self.total / self.count
        size = len(covariance)
        mean = (covariance.abs().sum() - covariance.diagonal().abs().sum()) / max(size * (size - 1), 1)
        return torch.where(self.count > 1, mean / (self.count - 1), torch.nan)
