"""Losses that keep slots apart: decorrelated features, decorrelated slots, or slots of different directions.

Letters used below: B images, K slots, D slot size, P size of the vectors that are compared, M rows: B K, without the
slots that were left out of their image, which are all 0 and count nowhere.

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

from object_discovery.layers.compositing import present_slots

CovarianceOf = Literal["features", "slots"]
Term = Literal["covariance", "variance", "cosine"]
Norm = Literal["batch", "layer"]

MARGIN = 0.2
"""Cosine up to which two slots are no longer pushed apart."""
_EPSILON = 1e-4  # added to variances before their root, whose gradient is infinite at 0


def covariance_loss(slots: Tensor, *, divide_by_square: bool = False) -> Tensor:
    """Sum up how the features of slots vary together: the squares of their covariances, over all slots of all images.

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
    rows, count = _centred(_in_full(slots))
    return _off_diagonal(_gram(rows.T, (count - 1).clamp_min(1))) / _divisor(slots, divide_by_square)


def slot_covariance_loss(slots: Tensor, *, divide_by_square: bool = False) -> Tensor:
    """Sum up how the slots of an image vary together over their features, averaged over images.

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
    full = _in_full(slots)
    full = full - full.mean(2, keepdim=True)
    return _off_diagonal(_gram(full, max(full.shape[2] - 1, 1))) / len(full) / _divisor(slots, divide_by_square)


def variance_loss(slots: Tensor, *, target: float = 1.0, of: CovarianceOf = "features") -> Tensor:
    """Measure by how much standard deviations fall short of a target, on average.

    Args:
        slots: `(B, K, P)`.
        target: Standard deviation that is asked for.
        of: `features`: each feature varies over all slots of all images. `slots`: each slot varies over its features.

    Returns:
        The loss, a scalar, float32, from 0 to `target`.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> variance_loss(torch.zeros(2, 3, 4))  # the square root is taken of the variance plus 1e-4
        tensor(0.9900)
    """
    full = _in_full(slots)
    if of == "features":
        rows, count = _centred(full)
        variance, there = rows.square().sum(0) / (count - 1).clamp_min(1), full.new_ones(())
    else:
        variance, there = full.var(-1, correction=1 if full.shape[-1] > 1 else 0), _there(full)
    short = F.relu(target - (variance + _EPSILON).sqrt()) * there
    return short.sum() / there.expand_as(short).sum().clamp_min(1)


def cosine_loss(slots: Tensor, *, margin: float = MARGIN) -> Tensor:
    """Push apart the slots of an image whose cosine exceeds a margin.

    Args:
        slots: `(B, K, P)`.
        margin: Cosine that is allowed.

    Returns:
        The mean over all K squared pairs of the excess, in which a slot paired with itself, or with one that was left
        out, counts as 0; float32.

    Raises:
        ValueError: If `slots` is not of three dimensions.

    Example:
        >>> cosine_loss(torch.ones(1, 2, 4))  # two of four pairs exceed the margin, by 0.8
        tensor(0.4000)
    """
    directions = F.normalize(_in_full(slots), dim=2)
    with torch.autocast(slots.device.type, enabled=False):
        excess = F.relu(directions @ directions.transpose(1, 2) - margin)
    return _without_diagonal(excess).mean()


class SlotRegularizer(nn.Module):
    """The terms that keep slots apart, and the head that slots may be projected by before they are compared.

    Weights and warm-ups are the caller's.

    Args:
        num_slots: K, the channels of the head's batch normalisation.
        slot_size: D.
        terms: Which terms to compute.
        covariance_of: What `covariance` and `variance` are of: the features over all slots, or the slots of an image.
        projection_size: P, the head's width. None: no head, the slots themselves are compared (P is D).
        projection_norm: How the head normalises: each slot over images and features, with K as the channels, as
            published by default; or each vector over its features.
        divide_by_square: Divide covariances by P squared instead of by P.
        variance_target: Standard deviation below which the variance term acts.

    Raises:
        ValueError: If a choice is not one of those named.

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
        for name, values, choices in (
            ("terms", terms, get_args(Term)),
            ("covariance_of", [covariance_of], get_args(CovarianceOf)),
            ("projection_norm", [projection_norm], get_args(Norm)),
        ):
            for value in values:
                if value not in choices:
                    raise ValueError(f"Expected argument `{name}` to be of {', '.join(choices)}, but got {value!r}")
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
        """Compute the terms of slots `(B, K, D)`, each a scalar without its weight, by their names."""
        projected = self.head(slots)
        if not isinstance(self.head, nn.Identity):
            projected = projected * _there(slots)[..., None].to(projected.dtype)
        losses: dict[str, Tensor] = {}
        if "covariance" in self.terms:
            of = covariance_loss if self.covariance_of == "features" else slot_covariance_loss
            losses["covariance"] = of(projected, divide_by_square=self.divide_by_square)
        if "variance" in self.terms:
            losses["variance"] = variance_loss(projected, target=self.variance_target, of=self.covariance_of)
        if "cosine" in self.terms:
            losses["cosine"] = cosine_loss(projected)
        return losses


def _in_full(slots: Tensor) -> Tensor:
    if slots.ndim != 3:
        raise ValueError(f"Expected argument `slots` to be of shape (B, K, P), but got {tuple(slots.shape)}")
    return slots.to(torch.promote_types(slots.dtype, torch.float32))


def _divisor(slots: Tensor, squared: bool) -> int:
    return int(slots.shape[2] ** (2 if squared else 1))


def _there(slots: Tensor) -> Tensor:
    """Tell the slots `(B, K, P)` that were not left out: 1 or 0, `(B, K)`."""
    return present_slots(slots).to(slots.dtype)


def _centred(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors of all slots less their mean, `(B K, P)`, 0 where left out, and how many are not."""
    there = _there(slots).flatten()[:, None]
    rows, count = slots.flatten(0, 1), there.sum()
    return (rows - rows.sum(0) / count.clamp_min(1)) * there, count


def _gram(centred: Tensor, degrees: Tensor | int) -> Tensor:
    """Compute the covariance of variables `(..., V, observations)` with so many degrees of freedom."""
    with torch.autocast(centred.device.type, enabled=False):
        return centred @ centred.transpose(-1, -2) / degrees


def _without_diagonal(matrices: Tensor) -> Tensor:
    diagonal = torch.eye(matrices.shape[-1], dtype=torch.bool, device=matrices.device)
    return matrices.masked_fill(diagonal, 0.0)


def _off_diagonal(covariances: Tensor) -> Tensor:
    return _without_diagonal(covariances).square().sum()
