"""Distributions of the latents: diagonal Gaussians and relaxed Bernoulli variables."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STD_FLOOR = 1e-4
"""Added to every standard deviation, so that no KL divergence or density becomes infinite."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian, in float32.

    Example:
        >>> Gaussian(torch.ones(3), torch.ones(3)).kl(0.0, 1.0)
        tensor([0.5000, 0.5000, 0.5000])
    """

    mean: Tensor
    """Means, `(..., D)`."""
    std: Tensor
    """Standard deviations, `(..., D)`, positive."""

    @classmethod
    def from_raw(cls, raw: Tensor) -> Gaussian:
        """Build a Gaussian from a layer's output `(..., 2 D)`: means, and standard deviations before the softplus."""
        mean, std = raw.float().chunk(2, dim=-1)
        return cls(mean, F.softplus(std) + STD_FLOOR)

    def rsample(self, noise_scale: float = 1.0) -> Tensor:
        """Sample `(..., D)` by reparameterisation; `noise_scale` multiplies the standard deviation."""
        return self.mean + noise_scale * self.std * torch.randn_like(self.mean)

    def kl(self, mean: Tensor | float, std: Tensor | float) -> Tensor:
        """Compute the KL divergence to another Gaussian elementwise, `(..., D)`."""
        ratio = self.std / std
        return 0.5 * (ratio.square() + ((self.mean - mean) / std).square() - 1) - ratio.log()

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log density elementwise, `(..., D)`."""
        error = (value - self.mean) / self.std
        return -0.5 * (error.square() + math.log(2 * math.pi)) - self.std.log()


def relaxed_bernoulli(logits: Tensor, tau: float) -> Tensor:
    """Sample relaxed Bernoulli variables (binary Concrete) by reparameterisation.

    Args:
        logits: Logits, any shape.
        tau: Temperature, above 0; the lower, the closer samples are to 0 or 1. At any temperature a sample exceeds 0.5
            with probability sigmoid(logit).

    Returns:
        Samples in (0, 1), of the same shape, float32.

    Reference:
        Maddison et al., The Concrete Distribution, ICLR 2017, arXiv 1611.00712.

    Example:
        >>> relaxed_bernoulli(torch.tensor([-50.0, 50.0]), tau=1.0).round()
        tensor([0., 1.])
    """
    uniform = torch.rand_like(logits, dtype=torch.float32).clamp_(1e-6, 1 - 1e-6)
    return ((logits.float() + uniform.logit()) / tau).sigmoid()


def bernoulli_kl(logits: Tensor, other: Tensor | float) -> Tensor:
    """Compute the KL divergence between Bernoulli variables elementwise; finite for finite logits.

    Args:
        logits: Logits of the first distribution, any shape.
        other: Logits of the second, of a broadcastable shape, or one number.

    Returns:
        KL divergences in nats, float32.

    Example:
        >>> bernoulli_kl(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))
        tensor([0., 0.])
    """
    logits = logits.float()
    other = torch.as_tensor(other, dtype=torch.float32)  # a CPU scalar, which broadcasts on every device
    probability = logits.sigmoid()
    log_ratio_one = F.logsigmoid(logits) - F.logsigmoid(other)
    log_ratio_zero = F.logsigmoid(-logits) - F.logsigmoid(-other)
    return probability * log_ratio_one + (1 - probability) * log_ratio_zero


def straight_through_clamp(values: Tensor, low: float, high: float) -> Tensor:
    """Clamp values in the forward pass; the backward pass is the identity (straight-through estimator).

    Example:
        >>> values = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
        >>> clamped = straight_through_clamp(values, 0.0, 1.0)
        >>> clamped.sum().backward()
        >>> clamped.tolist(), values.grad.tolist()
        ([0.0, 0.5, 1.0], [1.0, 1.0, 1.0])
    """
    return values + (values.clamp(low, high) - values).detach()
