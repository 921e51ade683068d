"""Training objective: reconstruction and KL terms, and the schedules of their weights.

All terms are sums over pixels, cells and dimensions, in nats, one value for each image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from object_discovery.models.gnm.distributions import Gaussian, bernoulli_kl
from object_discovery.models.gnm.local_latents import ObjectDistribution, ObjectLatents
from object_discovery.models.gnm.struct_draw import GlobalLatent
from object_discovery.params import GNMParams
from object_discovery.schedules import linear_anneal

MIN_PRESENCE_WEIGHT = 1e-5
"""Lower bound of z_pres where it weights the auxiliary KL terms."""
_FORCED_ALPHA = 0.9
_WHERE_STDS = (0.3, 1.0, 1.0)


class ScheduleValues(NamedTuple):
    """Values of all schedules at one training step."""

    tau: float
    """Temperature of the relaxed z_pres."""
    global_kl_weight: float
    """Weight of the KL of z_g."""
    presence_prior: float
    """Probability of an object in a cell in the auxiliary prior."""
    where_kl_weight: float
    """Weight of the auxiliary KL of z_where."""
    background_kl_weight: float
    """Weight of the auxiliary KL of z_bg."""
    noise_scale: float
    """Factor on the noise of the Gaussian object and background latents, in [0, 1]."""
    kl_weight: float
    """Weight of all KL terms except the auxiliary ones of z_pres and z_bg."""
    bound_fraction: float
    """Factor on the bound of the logits of z_pres, in [0, 1]."""
    background_only: bool
    """Whether the background is trained without objects, at the start."""
    forced_alpha: float | None
    """Total alpha that is forced in every pixel, at the start. None: that of the objects."""


def schedule_values(params: GNMParams, step: int) -> ScheduleValues:
    """Evaluate all schedules at a training step.

    As published, the presence prior and the forced alpha run one step ahead of the rest. (The published alpha is not
    forced at step 0 of its count, a step that does not occur here.)

    Args:
        params: The hyperparameters; each schedule is `[start, end, first step, last step]`.
        step: Training steps completed.

    Example:
        >>> schedule_values(GNMParams(tau=[1.0, 0.5, 1000, 20_000]), 10_500).tau
        0.75
    """
    return ScheduleValues(
        tau=linear_anneal(step, *params.tau),
        global_kl_weight=linear_anneal(step, *params.global_kl_weight),
        presence_prior=linear_anneal(step + 1, *params.presence_prior),
        where_kl_weight=linear_anneal(step, *params.where_kl_weight),
        background_kl_weight=linear_anneal(step, *params.background_kl_weight),
        noise_scale=linear_anneal(step, *params.noise_scale),
        kl_weight=linear_anneal(step, *params.kl_weight),
        bound_fraction=linear_anneal(step, *params.bound_fraction),
        background_only=step < params.background_steps,
        forced_alpha=_FORCED_ALPHA if step + 1 < params.forced_alpha_steps else None,
    )


def negative_log_likelihood(reconstruction: Tensor, target: Tensor, sigma: float) -> Tensor:
    """Compute the Gaussian negative log-likelihood of images, `(B,)`.

    Args:
        reconstruction: Means, `(B, 3, H, W)`.
        target: Images of the same shape.
        sigma: Standard deviation of every colour.

    Example:
        >>> negative_log_likelihood(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), sigma=1.0) / 12
        tensor([0.9189])
    """
    constant = target[0].numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    return (reconstruction.float() - target.float()).square().flatten(1).sum(1) / (2 * sigma**2) + constant


def robust_reconstruction_loss(
    reconstruction: Tensor, target: Tensor, sigma: float, margin: float, *, bounded: bool = True
) -> Tensor:
    """Compute a robust reconstruction loss, `(B,)`, for a background that is occluded by objects in some pixels.

    For errors far below `margin` it equals the Gaussian negative log-likelihood without its constant.

    Args:
        reconstruction: `(B, 3, H, W)`.
        target: Images of the same shape.
        sigma: Standard deviation of every colour.
        margin: Colour difference beyond which errors count as outliers.
        bounded: Use the Geman-McClure loss, which is bounded; otherwise Charbonnier's, which grows linearly.

    Example:
        >>> target = torch.zeros(1, 3, 2, 2)
        >>> losses = [robust_reconstruction_loss(torch.full_like(target, x), target, 1.0, 0.1) for x in (0.5, 1.0)]
        >>> (losses[1] / losses[0]).item() < 1.1
        True
    """
    square = (reconstruction.float() - target.float()).square()
    loss = square / (1 + square / margin**2) if bounded else 2 * margin * ((square + margin**2).sqrt() - margin)
    return loss.flatten(1).sum(1) / (2 * sigma**2)


def kl_terms(
    posterior: ObjectDistribution,
    prior: ObjectDistribution,
    background_posterior: Gaussian,
    background_prior: Gaussian,
    global_latent: GlobalLatent,
) -> dict[str, Tensor]:
    """Compute the KL terms of the ELBO.

    Args:
        posterior: q(z_s | x).
        prior: p(z_s | z_g).
        background_posterior: q(z_bg | x).
        background_prior: p(z_bg | z_g).
        global_latent: Sampled z_g with its posterior and prior.

    Returns:
        KL divergences `(B,)` by term.
    """
    return {
        "kl_presence": bernoulli_kl(posterior.presence, prior.presence).sum(1),
        "kl_where": _sum_per_image(posterior.where.kl(*prior.where)),
        "kl_depth": _sum_per_image(posterior.depth.kl(*prior.depth)),
        "kl_what": _sum_per_image(posterior.what.kl(*prior.what)),
        "kl_background": _sum_per_image(background_posterior.kl(*background_prior)),
        "kl_global": _sum_per_image(global_latent.posterior.kl(*global_latent.prior)),
    }


def auxiliary_kl_terms(
    posterior: ObjectDistribution,
    samples: ObjectLatents,
    background_posterior: Gaussian,
    presence_prior: float,
    scale_prior: float,
    scale_std: float = 0.1,
) -> dict[str, Tensor]:
    """Compute the auxiliary KL terms to fixed priors, which keep objects few, small and close to their cells.

    The terms of z_where, z_depth and z_what are weighted by the sampled z_pres, which receives a gradient from them.

    Args:
        posterior: q(z_s | x).
        samples: Samples from it.
        background_posterior: q(z_bg | x).
        presence_prior: Prior probability of an object in a cell.
        scale_prior: Prior mean of the logit of the scale.
        scale_std: Prior standard deviation of the logit of the scale.

    Returns:
        KL divergences `(B,)` by term.
    """
    weights = samples.presence.clamp_min(MIN_PRESENCE_WEIGHT)
    prior_logit = math.log(presence_prior) - math.log1p(-presence_prior)
    return {
        "aux_presence": bernoulli_kl(posterior.presence, prior_logit).sum(1),
        "aux_where": (_where_kl(posterior.where, scale_prior, scale_std) * weights).sum(1),
        "aux_depth": (posterior.depth.kl(0.0, 1.0).sum(-1) * weights).sum(1),
        "aux_what": (posterior.what.kl(0.0, 1.0).sum(-1) * weights).sum(1),
        "aux_background": _sum_per_image(background_posterior.kl(0.0, 1.0)),
    }


def weighted_loss(terms: dict[str, Tensor], schedule: ScheduleValues) -> Tensor:
    """Sum the reconstruction and KL terms with their weights, `(B,)`."""
    unweighted = ("nll", "background_nll", "aux_presence")
    weights = {name: 1.0 if name in unweighted else schedule.kl_weight for name in terms}
    weights["kl_global"] = schedule.global_kl_weight * schedule.kl_weight
    weights["aux_where"] = schedule.where_kl_weight * schedule.kl_weight
    weights["aux_background"] = schedule.background_kl_weight
    return torch.stack([value * weights[name] for name, value in terms.items()]).sum(0)


def elbo(terms: dict[str, Tensor]) -> Tensor:
    """Compute the ELBO from its unweighted terms, without the auxiliary and background terms, `(B,)`."""
    return -torch.stack([value for name, value in terms.items() if not name.startswith(("aux_", "background_"))]).sum(0)


def _where_kl(where: Gaussian, scale_prior: float, scale_std: float) -> Tensor:
    """Compute the KL of z_where to its fixed prior, `(B, N)`."""
    means = (scale_prior, 0.0, 0.0, 0.0)  # numbers, since a tensor would have to be copied to the device
    entries = zip(where.mean.unbind(-1), where.std.unbind(-1), means, (scale_std, *_WHERE_STDS), strict=True)
    return torch.stack([Gaussian(mean, std).kl(*prior) for mean, std, *prior in entries]).sum(0)


def _sum_per_image(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)
