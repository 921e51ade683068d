"""The two kinds of distribution that the latents have: diagonal Gaussians, and relaxed Bernoulli variables."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STD_FLOOR = 1e-4
"""Added to every standard deviation, so that none vanishes and makes a loss infinite."""


class Gaussian(NamedTuple):
    """A Gaussian with independent entries, in float32.

    Example:
        >>> Gaussian(torch.ones(3), torch.ones(3)).kl(0.0, 1.0)
        tensor([0.5000, 0.5000, 0.5000])
    """

    mean: Tensor
    """Means, `(..., D)`."""
    std: Tensor
    """Standard deviations, `(..., D)`, positive."""

    @classmethod
    def of(cls, raw: Tensor) -> Gaussian:
        """Make one of a network's output `(..., 2 D)`: means, and what softplus turns into standard deviations."""
        mean, std = raw.float().chunk(2, dim=-1)
        return cls(mean, F.softplus(std) + STD_FLOOR)

    def sample(self, noise: float = 1.0) -> Tensor:
        """Draw a sample `(..., D)` that is differentiable; with `noise` below 1 it lies nearer to the mean."""
        return self.mean + noise * self.std * torch.randn_like(self.mean)

    def kl(self, mean: Tensor | float, std: Tensor | float) -> Tensor:
        """Return the KL divergence of each entry from that of another Gaussian, `(..., D)`."""
        ratio = self.std / std
        return 0.5 * (ratio.square() + ((self.mean - mean) / std).square() - 1) - ratio.log()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithm of the density of each entry, `(..., D)`."""
        error = (value - self.mean) / self.std
        return -0.5 * (error.square() + math.log(2 * math.pi)) - self.std.log()


def relaxed_bernoulli(logits: Tensor, tau: float) -> Tensor:
    """Draw samples in (0, 1) that are differentiable, and the nearer to 0 or 1 the lower the temperature.

    Args:
        logits: Log-odds, any shape.
        tau: Temperature, above 0. Whatever it is, a sample is above one half with the probability of a 1.

    Returns:
        Samples of the same shape, float32.

    Reference:
        Maddison et al., The Concrete Distribution, ICLR 2017, arXiv 1611.00712.

    Example:
        >>> relaxed_bernoulli(torch.tensor([-50.0, 50.0]), tau=1.0).round()
        tensor([0., 1.])
    """
    uniform = torch.rand_like(logits, dtype=torch.float32).clamp_(1e-6, 1 - 1e-6)
    return ((logits.float() + uniform.logit()) / tau).sigmoid()


def bernoulli_kl(logits: Tensor, other: Tensor | float) -> Tensor:
    """Return the KL divergence of Bernoulli variables from others; never infinite or NaN for finite log-odds.

    Args:
        logits: Log-odds, any shape.
        other: Log-odds of the others, of a shape that fits, or one number.

    Returns:
        Divergences, float32.

    Example:
        >>> bernoulli_kl(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))
        tensor([0., 0.])
    """
    logits = logits.float()
    other = torch.as_tensor(other, dtype=torch.float32)  # one number stays on the CPU, which all devices accept
    chance = logits.sigmoid()
    ones = F.logsigmoid(logits) - F.logsigmoid(other)
    zeros = F.logsigmoid(-logits) - F.logsigmoid(-other)
    return chance * ones + (1 - chance) * zeros


def straight_through_clamp(values: Tensor, low: float, high: float) -> Tensor:
    """Clamp values, and let the gradient through as if nothing were clamped.

    Example:
        >>> values = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
        >>> clamped = straight_through_clamp(values, 0.0, 1.0)
        >>> clamped.sum().backward()
        >>> clamped.tolist(), values.grad.tolist()
        ([0.0, 0.5, 1.0], [1.0, 1.0, 1.0])
    """
    return values + (values.clamp(low, high) - values).detach()
