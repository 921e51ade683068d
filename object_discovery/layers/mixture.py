"""Pixels as a mixture of Gaussians, one component per slot: likelihood and posterior masks.

A decoder of RGB and alpha defines, for each pixel, a mixture whose weights are the decoder's masks m_k and whose means
are the colours x_k of the slot images: p(x) = sum_k m_k N(x; x_k, sigma^2 I).

References:
    Greff, van Steenkiste and Schmidhuber, Neural Expectation Maximization, NeurIPS 2017, arXiv 1708.03498.
    Burgess et al., MONet: Unsupervised Scene Decomposition and Representation, 2019, arXiv 1901.11390.
    Greff et al., Multi-Object Representation Learning with Iterative Variational Inference (IODINE), ICML 2019,
    arXiv 1903.00450.
"""

from __future__ import annotations

import math

from torch import Tensor

_MIN_MASK = 1e-30  # keeps the logarithm finite, also of inactive slots
MIN_SIGMA = 0.01
"""Least standard deviation, of colours in [0, 1]: about the quantisation noise of dithered 8-bit images."""


def mixture_log_likelihood(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: Tensor) -> Tensor:
    """Compute the log-likelihood of each pixel.

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.
        sigma: Standard deviation, broadcastable to `(B, H, W)`.

    Returns:
        log p(x) in nats, `(B, H, W)`, float32.

    Example:
        >>> image = torch.full((1, 3, 2, 2), 0.5)
        >>> mixture_log_likelihood(torch.ones(1, 1, 2, 2), image[:, None], image, torch.tensor(1.0))[0, 0, 0]
        tensor(-2.7568)
    """
    joint = _log_joint(masks, _squared_errors(slot_images, images), sigma)
    return joint.logsumexp(1) - 3 * (sigma.log() + math.log(2 * math.pi) / 2)


def posterior_masks(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: Tensor | None = None) -> Tensor:
    """Compute the posterior probability of each slot given the colour of the pixel (the responsibilities).

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.
        sigma: Standard deviation, broadcastable to `(B, H, W)`. None: `estimate_sigma` of each image.

    Returns:
        Posterior masks `(B, K, H, W)`, float32, which sum to 1 over the slots; 0 where `masks` is 0.

    Example:
        >>> masks, colours = torch.tensor([0.9, 0.1]), torch.tensor([0.0, 1.0])
        >>> white = torch.ones(1, 3, 1, 1)
        >>> means = colours.view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
        >>> posterior_masks(masks.view(1, 2, 1, 1), means, white, torch.tensor(0.5)).flatten().tolist()
        [0.021, 0.979]
    """
    errors = _squared_errors(slot_images, images)
    if sigma is None:
        sigma = _estimate_sigma(masks, errors)
    return _log_joint(masks, errors, sigma).softmax(1) * (masks > 0)


def estimate_sigma(masks: Tensor, slot_images: Tensor, images: Tensor) -> Tensor:
    """Estimate the standard deviation of each image by expectation maximisation, all else fixed.

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.

    Returns:
        `(B, 1, 1)`, float32, at least `MIN_SIGMA`.
    """
    return _estimate_sigma(masks, _squared_errors(slot_images, images))


def _estimate_sigma(masks: Tensor, errors: Tensor, iterations: int = 5) -> Tensor:
    """Estimate sigma by squared errors `(B, K, H, W)`."""
    weights = masks
    for _ in range(iterations):
        variance = (weights * errors).sum(1).mean((1, 2), keepdim=True) / 3
        sigma = variance.sqrt().clamp_min(MIN_SIGMA)
        weights = _log_joint(masks, errors, sigma).softmax(1)
    return sigma


def _squared_errors(slot_images: Tensor, images: Tensor) -> Tensor:
    """Compute the squared distance of colours, `(B, K, H, W)`."""
    return (slot_images.float() - images.float()[:, None]).square().sum(2)


def _log_joint(masks: Tensor, errors: Tensor, sigma: Tensor) -> Tensor:
    """Compute log m_k - |x - x_k|^2 / (2 sigma^2), `(B, K, H, W)`."""
    return masks.float().clamp_min(_MIN_MASK).log() - errors / (2 * sigma.square())[:, None]
