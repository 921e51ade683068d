"""The objective: what the image costs given the latents, and what the latents cost; and how the weights change.

All values are sums over pixels, cells and entries, in nats, one for each image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from object_discovery.models.gnm.distributions import Gaussian, bernoulli_kl
from object_discovery.models.gnm.local_latents import ObjectDistribution, Objects
from object_discovery.models.gnm.prior import GlobalLatent
from object_discovery.params import GNMParams
from object_discovery.schedules import linear_anneal

LEAST_PRESENCE = 1e-5
"""The least that the auxiliary terms of an object are weighted with."""
_COVERED = 0.9
_WHERE_STDS = (0.3, 1.0, 1.0)


class ScheduleValues(NamedTuple):
    """Everything that changes in the course of training, at one step."""

    tau: float
    """Temperature of the relaxed presence."""
    global_kl: float
    """Weight of the divergence of the global latent."""
    presence_prior: float
    """Probability of an object in a cell, in the auxiliary prior."""
    where: float
    """Weight of the auxiliary divergence of where objects are."""
    background: float
    """Weight of the auxiliary divergence of the background."""
    noise: float
    """How much of the noise of the latents there is, but for the presence."""
    latents: float
    """Weight of all divergences but those of the presence and the background from the auxiliary prior."""
    reach: float
    """Share of their bound that the log-odds of the presence reach."""
    alone: bool
    """Whether the background is trained alone, in the first steps."""
    coverage: float | None
    """How much of the background is hidden everywhere, in the first steps; None: where objects are."""


def weights_at(params: GNMParams, step: int) -> ScheduleValues:
    """Return the weights at a step.

    As published, the presence prior and the forced coverage run one step ahead of the rest, and the coverage is not
    forced at step 0 of the published count, which nothing here reaches.

    Args:
        params: The hyperparameters, of which each schedule is `[start, end, first step, last step]`.
        step: Steps done.

    Example:
        >>> weights_at(GNMParams(tau=[1.0, 0.5, 1000, 20_000]), 10_500).tau
        0.75
    """
    return ScheduleValues(
        linear_anneal(step, *params.tau),
        linear_anneal(step, *params.global_weight),
        linear_anneal(step + 1, *params.presence_prior),
        linear_anneal(step, *params.where_weight),
        linear_anneal(step, *params.background_weight),
        linear_anneal(step, *params.latent_noise),
        linear_anneal(step, *params.latent_weight),
        linear_anneal(step, *params.presence_reach),
        step < params.background_steps,
        _COVERED if step + 1 < params.covered_steps else None,
    )


def negative_log_likelihood(image: Tensor, target: Tensor, sigma: float) -> Tensor:
    """Return minus the logarithm of the Gaussian density of images around others, `(B,)`.

    Example:
        >>> negative_log_likelihood(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), sigma=1.0) / 12
        tensor([0.9189])
    """
    constant = target[0].numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    return (image.float() - target.float()).square().flatten(1).sum(1) / (2 * sigma**2) + constant


def robust_cost(image: Tensor, target: Tensor, sigma: float, margin: float, *, bounded: bool = True) -> Tensor:
    """Return the cost of images by which some pixels may be quite wrong, `(B,)`: those that show objects.

    Near the target it is that of the Gaussian density, without its constant.

    Args:
        image: `(B, 3, H, W)`.
        target: Of the same shape.
        sigma: Standard deviation of colours.
        margin: Difference of colours at which the cost bends.
        bounded: The cost of a pixel rises to a bound (Geman-McClure), not on along a straight line (Charbonnier).

    Example:
        >>> costs = [robust_cost(torch.full((1, 3, 2, 2), x), torch.zeros(1, 3, 2, 2), 1.0, 0.1) for x in (0.5, 1.0)]
        >>> (costs[1] / costs[0]).item() < 1.1
        True
    """
    square = (image.float() - target.float()).square()
    bent = square / (1 + square / margin**2) if bounded else 2 * margin * ((square + margin**2).sqrt() - margin)
    return bent.flatten(1).sum(1) / (2 * sigma**2)


def divergences(
    objects: ObjectDistribution,
    expected: ObjectDistribution,
    background: Gaussian,
    expected_background: Gaussian,
    latent: GlobalLatent,
) -> dict[str, Tensor]:
    """Return the KL divergences of the posterior from the prior; the ELBO is minus their sum and the image's cost.

    Args:
        objects: Posterior of the objects.
        expected: Their prior given the global latent.
        background: Posterior of the background.
        expected_background: Its prior given the global latent.
        latent: The global latent.

    Returns:
        `(B,)` by the part's name.
    """
    return {
        "kl_presence": bernoulli_kl(objects.presence, expected.presence).sum(1),
        "kl_where": _total(objects.where.kl(*expected.where)),
        "kl_depth": _total(objects.depth.kl(*expected.depth)),
        "kl_what": _total(objects.what.kl(*expected.what)),
        "kl_background": _total(background.kl(*expected_background)),
        "kl_global": _total(latent.posterior.kl(*latent.prior)),
    }


def auxiliary_divergences(
    objects: ObjectDistribution,
    drawn: Objects,
    background: Gaussian,
    presence_prior: float,
    scale_prior: float,
    scale_std: float = 0.1,
) -> dict[str, Tensor]:
    """Return the KL divergences of the posterior from fixed priors, which keep objects few, small and in their cells.

    Those of where, depth and what count as far as the object is there, so that the gradient reaches its presence.

    Args:
        objects: Posterior of the objects.
        drawn: What was drawn from it.
        background: Posterior of the background.
        presence_prior: Expected probability of an object in a cell.
        scale_prior: Expected logit of an object's scale.
        scale_std: Its standard deviation.

    Returns:
        `(B,)` by the part's name.
    """
    there = drawn.presence.clamp_min(LEAST_PRESENCE)
    chance = math.log(presence_prior) - math.log1p(-presence_prior)
    return {
        "aux_presence": bernoulli_kl(objects.presence, chance).sum(1),
        "aux_where": (_where_divergence(objects.where, scale_prior, scale_std) * there).sum(1),
        "aux_depth": (objects.depth.kl(0.0, 1.0).sum(-1) * there).sum(1),
        "aux_what": (objects.what.kl(0.0, 1.0).sum(-1) * there).sum(1),
        "aux_background": _total(background.kl(0.0, 1.0)),
    }


def loss(parts: dict[str, Tensor], weights: ScheduleValues) -> Tensor:
    """Add up the cost of the image and all divergences with their weights, `(B,)`."""
    fixed = ("nll", "background_nll", "aux_presence")
    factors = {name: 1.0 if name in fixed else weights.latents for name in parts}
    factors |= {"kl_global": weights.global_kl * weights.latents, "aux_where": weights.where * weights.latents}
    factors["aux_background"] = weights.background
    return torch.stack([value * factors[name] for name, value in parts.items()]).sum(0)


def elbo(parts: dict[str, Tensor]) -> Tensor:
    """Add up the cost of the image and the divergences from the model's own prior, and turn the sign, `(B,)`."""
    return -torch.stack([value for name, value in parts.items() if not name.startswith(("aux_", "background_"))]).sum(0)


def _where_divergence(where: Gaussian, scale_prior: float, scale_std: float) -> Tensor:
    """Return the divergence of each object's `where` from its fixed prior, `(B, N)`."""
    means = (scale_prior, 0.0, 0.0, 0.0)  # numbers rather than a tensor, which would have to be sent to the device
    entries = zip(where.mean.unbind(-1), where.std.unbind(-1), means, (scale_std, *_WHERE_STDS), strict=True)
    return torch.stack([Gaussian(mean, std).kl(*prior) for mean, std, *prior in entries]).sum(0)


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)
