"""Importance weights for the estimate of the log-likelihood."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.local_latents import ObjectDistribution, ObjectLatents
from object_discovery.models.gnm.struct_draw import GlobalLatent


def log_prob(distribution: ObjectDistribution, objects: ObjectLatents) -> Tensor:
    """Compute the joint log density of all object latents of an image, with z_pres in {0, 1}; `(B,)`.

    Example:
        >>> import torch
        >>> empty = Gaussian(torch.zeros(1, 2, 0), torch.ones(1, 2, 0))
        >>> distribution = ObjectDistribution(torch.tensor([[0.0, 20.0]]), empty, empty, empty)
        >>> objects = ObjectLatents(torch.tensor([[0.0, 1.0]]), empty.mean, empty.mean, empty.mean)
        >>> log_prob(distribution, objects).exp()
        tensor([0.5000])
    """
    bce = F.binary_cross_entropy_with_logits(distribution.presence, objects.presence, reduction="none")
    gaussians = zip(distribution[1:], objects[1:], strict=True)
    return -bce.sum(1) + sum(total_log_prob(gaussian, value) for gaussian, value in gaussians)


def total_log_prob(gaussian: Gaussian, value: Tensor) -> Tensor:
    """Compute the joint log density of all entries of an image, `(B,)`."""
    return gaussian.log_prob(value).flatten(1).sum(1)


def log_prior_posterior_ratio(
    objects: ObjectLatents,
    posterior: ObjectDistribution,
    prior: ObjectDistribution,
    background: Tensor,
    background_posterior: Gaussian,
    background_prior: Gaussian,
    global_latent: GlobalLatent,
) -> Tensor:
    """Compute log p(z) - log q(z | x) of sampled latents, `(B,)`, in nats.

    Args:
        objects: Sampled object latents, with z_pres in {0, 1}.
        posterior: q(z_s | x).
        prior: p(z_s | z_g).
        background: Sampled z_bg.
        background_posterior: q(z_bg | x).
        background_prior: p(z_bg | z_g).
        global_latent: Sampled z_g with its posterior and prior.
    """
    log_prior = log_prob(prior, objects) + total_log_prob(background_prior, background)
    log_posterior = log_prob(posterior, objects) + total_log_prob(background_posterior, background)
    samples = global_latent.samples
    log_global_ratio = total_log_prob(global_latent.prior, samples) - total_log_prob(global_latent.posterior, samples)
    return log_prior - log_posterior + log_global_ratio
