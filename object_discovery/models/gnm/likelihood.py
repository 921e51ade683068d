"""Importance sampling: what a sample of the latents says about the density of an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.local_latents import ObjectDistribution, Objects
from object_discovery.models.gnm.prior import GlobalLatent


def log_prob(distribution: ObjectDistribution, objects: Objects) -> Tensor:
    """Return the logarithm of the density of objects whose presence is 0 or 1, `(B,)`.

    Example:
        >>> import torch
        >>> none = Gaussian(torch.zeros(1, 2, 0), torch.ones(1, 2, 0))
        >>> chances = ObjectDistribution(torch.tensor([[0.0, 20.0]]), none, none, none)
        >>> log_prob(chances, Objects(torch.tensor([[0.0, 1.0]]), none.mean, none.mean, none.mean)).exp()
        tensor([0.5000])
    """
    there = -F.binary_cross_entropy_with_logits(distribution.presence, objects.presence, reduction="none").sum(1)
    gaussians = zip(distribution[1:], objects[1:], strict=True)
    return there + sum(total_log_prob(gaussian, value) for gaussian, value in gaussians)


def total_log_prob(gaussian: Gaussian, value: Tensor) -> Tensor:
    """Return the logarithm of the density of all entries together, `(B,)`."""
    return gaussian.log_prob(value).flatten(1).sum(1)


def log_ratio(
    objects: Objects,
    inferred: ObjectDistribution,
    expected: ObjectDistribution,
    background: Tensor,
    inferred_background: Gaussian,
    expected_background: Gaussian,
    latent: GlobalLatent,
) -> Tensor:
    """Return how much more probable latents are under the prior than under the posterior, `(B,)`, in nats.

    Args:
        objects: The objects drawn, whose presence is 0 or 1.
        inferred: Their posterior.
        expected: Their prior given the global latent.
        background: The background's latent drawn.
        inferred_background: Its posterior.
        expected_background: Its prior given the global latent.
        latent: The global latent drawn, with its posterior and prior.
    """
    prior = log_prob(expected, objects) + total_log_prob(expected_background, background)
    posterior = log_prob(inferred, objects) + total_log_prob(inferred_background, background)
    of_latent = total_log_prob(latent.prior, latent.samples) - total_log_prob(latent.posterior, latent.samples)
    return prior - posterior + of_latent
