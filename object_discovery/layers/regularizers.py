"""Covariance, variance and cosine similarity losses on slots (Stange et al. 2023).

Shapes: B images, K slots, D slot size, P size of the projected slots. Inactive slots, which are zero vectors, are
excluded from all statistics.

Reference:
    Stange et al., Exploring the Role of the Bottleneck in Slot-Based Models Through Covariance Regularization, 2023,
    arXiv 2306.02577; its covariance and variance terms go back to Bardes et al., VICReg, 2022, arXiv 2105.04906.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.errors import check_choice
from object_discovery.layers.compositing import active_mask

CovarianceOf = Literal["features", "slots"]
Term = Literal["covariance", "variance", "cosine"]
Norm = Literal["batch", "layer"]

MARGIN = 0.2
"""Cosine similarity of two slots up to which their cosine loss is 0."""
_EPSILON = 1e-4  # added to variances before the square root, whose gradient is infinite at 0


def covariance_loss(slots: Tensor, *, divide_by_square: bool = False) -> Tensor:
    """Compute the VICReg covariance loss of features over all slots of all images: squared off-diagonal covariances.

    Args:
        slots: `(B, K, P)`.
        divide_by_square: Divide the sum by P squared instead of by P.

    Returns:
        The loss, a scalar, float32; 0 for a single row.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> covariance_loss(torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]]))  # twice the covariance 2, squared, over 2
        tensor(4.)
    """
    rows, count = _center_active(_as_float32(slots))
    return _off_diagonal(_covariance(rows.T, (count - 1).clamp_min(1))) / _divisor(slots, divide_by_square)


def slot_covariance_loss(slots: Tensor, *, divide_by_square: bool = False) -> Tensor:
    """Compute the covariance loss between the slots of an image over their features, averaged over images.

    Args:
        slots: `(B, K, P)`.
        divide_by_square: Divide the sum by P squared instead of by P.

    Returns:
        The loss, a scalar, float32; 0 for a single slot.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> slot_covariance_loss(torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]))  # twice the covariance 2, squared, over 2
        tensor(4.)
    """
    slots = _as_float32(slots)
    slots = slots - slots.mean(2, keepdim=True)
    return (
        _off_diagonal(_covariance(slots, max(slots.shape[2] - 1, 1))) / len(slots) / _divisor(slots, divide_by_square)
    )


def variance_loss(slots: Tensor, *, target: float = 1.0, of: CovarianceOf = "features") -> Tensor:
    """Compute the VICReg variance loss: the mean hinge of standard deviations below a target.

    Args:
        slots: `(B, K, P)`.
        target: Standard deviation above which the hinge is 0.
        of: `features`: variance of each feature over all slots of all images. `slots`: of each slot over its features.

    Returns:
        The loss, a scalar, float32, from 0 to `target`.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> variance_loss(torch.zeros(2, 3, 4))  # the square root is taken of the variance plus 1e-4
        tensor(0.9900)
    """
    slots = _as_float32(slots)
    if of == "features":
        rows, count = _center_active(slots)
        variance, active = rows.square().sum(0) / (count - 1).clamp_min(1), slots.new_ones(())
    else:
        variance, active = slots.var(-1, correction=1 if slots.shape[-1] > 1 else 0), _active(slots)
    hinge = F.relu(target - (variance + _EPSILON).sqrt()) * active
    return hinge.sum() / active.expand_as(hinge).sum().clamp_min(1)


def cosine_loss(slots: Tensor, *, margin: float = MARGIN) -> Tensor:
    """Compute the cosine loss: the mean excess of the cosine similarities of the slots of an image over a margin.

    Args:
        slots: `(B, K, P)`.
        margin: Cosine similarity up to which the loss is 0.

    Returns:
        Mean over all K * K ordered pairs, float32; a slot paired with itself or with an inactive slot counts as 0.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> cosine_loss(torch.ones(1, 2, 4))  # two of four pairs exceed the margin, by 0.8
        tensor(0.4000)
    """
    directions = F.normalize(_as_float32(slots), dim=2)
    with torch.autocast(slots.device.type, enabled=False):
        excess = F.relu(directions @ directions.transpose(1, 2) - margin)
    return _without_diagonal(excess).mean()


class SlotRegularizer(nn.Module):
    """Covariance, variance and cosine losses on slots, with an optional projection head.

    The losses are returned without weights.

    Args:
        num_slots: K, the number of channels of the batch normalisation in the head.
        slot_size: D.
        terms: The losses to compute.
        covariance_of: Variables of the covariance and variance losses: features, over all slots of a batch; or the
            slots of an image, over their features.
        projection_size: P, the width of the projection head. None: no head, P = D.
        projection_norm: Normalisation in the head: batch normalisation with one channel per slot, the published
            default; or layer normalisation.
        divide_by_square: Divide covariances by P squared instead of by P.
        variance_target: Standard deviation above which the variance loss is 0.

    Raises:
        ValueError: If `terms`, `covariance_of` or `projection_norm` is none of the choices.

    Example:
        >>> regularizer = SlotRegularizer(5, 64, ["covariance", "cosine"], projection_size=128)
        >>> sorted(regularizer(torch.randn(2, 5, 64)))
        ['cosine', 'covariance']
    """

    def __init__(
        self,
        num_slots: int,
        slot_size: int,
        terms: Sequence[Term],
        *,
        covariance_of: CovarianceOf = "features",
        projection_size: int | None = None,
        projection_norm: Norm = "batch",
        divide_by_square: bool = False,
        variance_target: float = 1.0,
    ) -> None:
        super().__init__()
        for term in terms:
            check_choice("terms", term, get_args(Term))
        check_choice("covariance_of", covariance_of, get_args(CovarianceOf))
        check_choice("projection_norm", projection_norm, get_args(Norm))
        self.terms, self.covariance_of = tuple(terms), covariance_of
        self.divide_by_square, self.variance_target = divide_by_square, variance_target
        self.head: nn.Module = nn.Identity()
        if projection_size is not None:
            layers: list[nn.Module] = []
            for inputs in (slot_size, projection_size):
                norm = nn.BatchNorm1d(num_slots) if projection_norm == "batch" else nn.LayerNorm(projection_size)
                layers += [nn.Linear(inputs, projection_size), norm, nn.ReLU()]
            self.head = nn.Sequential(*layers, nn.Linear(projection_size, projection_size))

    def forward(self, slots: Tensor) -> dict[str, Tensor]:
        """Compute the losses of slots `(B, K, D)`: scalars by the names in `terms`."""
        projected = self.head(slots)
        if not isinstance(self.head, nn.Identity):
            projected = projected * _active(slots)[..., None].to(projected.dtype)
        losses: dict[str, Tensor] = {}
        if "covariance" in self.terms:
            loss = covariance_loss if self.covariance_of == "features" else slot_covariance_loss
            losses["covariance"] = loss(projected, divide_by_square=self.divide_by_square)
        if "variance" in self.terms:
            losses["variance"] = variance_loss(projected, target=self.variance_target, of=self.covariance_of)
        if "cosine" in self.terms:
            losses["cosine"] = cosine_loss(projected)
        return losses


def _as_float32(slots: Tensor) -> Tensor:
    if slots.ndim != 3:
        raise ValueError(f"Expected argument `slots` to be of shape (B, K, P), but got {tuple(slots.shape)}")
    return slots.to(torch.promote_types(slots.dtype, torch.float32))


def _divisor(slots: Tensor, squared: bool) -> int:
    return int(slots.shape[2] ** (2 if squared else 1))


def _active(slots: Tensor) -> Tensor:
    """Return which slots `(B, K, P)` are active: 1 or 0, `(B, K)`."""
    return active_mask(slots).to(slots.dtype)


def _center_active(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred active slots, `(B K, P)`, 0 where inactive, and their number."""
    active = _active(slots).flatten()[:, None]
    rows, count = slots.flatten(0, 1), active.sum()
    return (rows - rows.sum(0) / count.clamp_min(1)) * active, count


def _covariance(centred: Tensor, degrees: Tensor | int) -> Tensor:
    """Compute the covariance of centred variables `(..., V, observations)` with given degrees of freedom."""
    with torch.autocast(centred.device.type, enabled=False):
        return centred @ centred.transpose(-1, -2) / degrees


def _without_diagonal(matrices: Tensor) -> Tensor:
    diagonal = torch.eye(matrices.shape[-1], dtype=torch.bool, device=matrices.device)
    return matrices.masked_fill(diagonal, 0.0)


def _off_diagonal(covariances: Tensor) -> Tensor:
    return _without_diagonal(covariances).square().sum()
