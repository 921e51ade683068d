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

import torch
from torch import Tensor, nn

_MIN_MASK = 1e-30  # keeps the logarithm finite, also of inactive slots
ESTIMATION_ITERATIONS = 5
"""Iterations by which the standard deviation of an image is estimated."""
_PRUNING_SIGMA = 2.0  # standard deviation in pruning, in estimated ones: small differences of shade are no evidence
MIN_SIGMA = 0.01
"""Least standard deviation of colours; those of 8-bit images in [0, 1] are multiples of 0.004."""


class MixtureLoss(nn.Module):
    """Negative log-likelihood of pixels, scaled such that one slot alone has the gradient of the squared error.

    The variance sigma^2 is a moving average of its maximum-likelihood estimate, so that it falls with the residual. The
    log-likelihood is multiplied by 2 sigma^2 / 3, so that learning rate and clipping suit it as they suit the squared
    error.

    Args:
        initial_sigma: Standard deviation at the start.
        momentum: Weight of the previous variance in the moving average.

    Attributes:
        variance: sigma^2, `()`.

    Reference:
        Seitzer et al., On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks,
        ICLR 2022, arXiv 2203.09168 (the scaled likelihood, here with beta = 1).

    Example:
        >>> import torch
        >>> masks, slot_images, images = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 3, 4, 4), torch.ones(1, 3, 4, 4)
        >>> round(float(MixtureLoss(initial_sigma=1.0)(masks, slot_images, images)), 3)  # squared error + log(2 pi)
        2.838
    """

    variance: Tensor

    def __init__(self, initial_sigma: float = 0.3, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("variance", torch.tensor(initial_sigma**2))

    @property
    def sigma(self) -> Tensor:
        """The standard deviation, `()`."""
        return self.variance.sqrt()

    def forward(self, masks: Tensor, slot_images: Tensor, images: Tensor) -> Tensor:
        """Compute the mean over all pixels and channels, and in training mode update the variance.

        Args:
            masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
            slot_images: Means, `(B, K, 3, H, W)`.
            images: `(B, 3, H, W)`, in the range of the means.
        """
        sigma, errors = self.sigma, _squared_errors(slot_images, images)
        joint = _log_joint(masks, errors, sigma)
        if self.training:
            self._update(joint, errors)
        return -_log_marginal(joint, sigma).mean() * 2 * sigma.square() / 3

    @torch.no_grad()
    def _update(self, joint: Tensor, errors: Tensor) -> None:
        estimate = (joint.softmax(1) * errors).sum(1).mean() / 3
        self.variance.lerp_(estimate.clamp_min(MIN_SIGMA**2), 1 - self.momentum)


def mixture_log_likelihood(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: Tensor) -> Tensor:
    """Compute the log-likelihood of each pixel.

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.
        sigma: Standard deviation, `()` or `(B,)`.

    Returns:
        log p(x) in nats, `(B, H, W)`, float32.

    Example:
        >>> import torch
        >>> image = torch.full((1, 3, 2, 2), 0.5)
        >>> mixture_log_likelihood(torch.ones(1, 1, 2, 2), image[:, None], image, torch.tensor(1.0))[0, 0, 0]
        tensor(-2.7568)
    """
    return _log_marginal(_log_joint(masks, _squared_errors(slot_images, images), sigma), sigma)


def posterior_masks(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: Tensor | None = None) -> Tensor:
    """Compute the posterior probability of each slot given the colour of the pixel (the responsibilities).

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.
        sigma: Standard deviation, `()` or `(B,)`. None: `estimate_sigma` of each image.

    Returns:
        Posterior masks `(B, K, H, W)`, float32, which sum to 1 over the slots; 0 where `masks` is 0.

    Example:
        >>> import torch
        >>> masks, colours = torch.tensor([0.9, 0.1]), torch.tensor([0.0, 1.0])
        >>> white = torch.ones(1, 3, 1, 1)
        >>> means = colours.view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
        >>> posterior_masks(masks.view(1, 2, 1, 1), means, white, torch.tensor(0.5)).flatten()
        tensor([0.0218, 0.9782])
    """
    errors = _squared_errors(slot_images, images)
    if sigma is None:
        sigma = _estimate_sigma(masks, errors)
    return _log_joint(masks, errors, sigma).softmax(1) * (masks > 0)


@torch.no_grad()
def necessary_slots(masks: Tensor, slot_images: Tensor, images: Tensor, min_gain: float) -> Tensor:
    """Select the slots without which an image is less likely, by backward elimination.

    As long as there is a slot without which the mean log-likelihood of the pixels (the masks of the others
    renormalised) falls by less than `min_gain`, the one with the smallest fall is eliminated. Of two slots that share
    an object, one is. The standard deviation is twice `estimate_sigma` of the image.

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.
        min_gain: In nats per pixel, at least 0.

    Returns:
        Bool `(B, K)`; at least one slot of each image.

    Example:
        >>> import torch
        >>> masks = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
        >>> slot_images = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 1, 2)
        >>> images = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> necessary_slots(masks.expand(1, 3, 1, 2), slot_images, images, min_gain=0.01)
        tensor([[False,  True,  True]])
    """
    errors = _squared_errors(slot_images, images)
    joint = _log_joint(masks, errors, _PRUNING_SIGMA * _estimate_sigma(masks, errors))
    log_masks = masks.float().clamp_min(_MIN_MASK).log()
    necessary = masks.amax((2, 3)) > 0
    image_index = torch.arange(len(masks), device=masks.device)
    for _ in range(masks.shape[1] - 1):
        eliminated = ~necessary[:, :, None, None]
        current, without = _leave_one_out(joint.masked_fill(eliminated, -torch.inf))
        mass, mass_without = _leave_one_out(log_masks.masked_fill(eliminated, -torch.inf))
        losses = ((current - mass)[:, None] - (without - mass_without)).nan_to_num(torch.inf).mean((2, 3))
        loss, slot = losses.masked_fill(~necessary, torch.inf).min(1)
        redundant = (loss < min_gain) & (necessary.sum(1) > 1)
        if not redundant.any():
            break
        necessary[image_index[redundant], slot[redundant]] = False
    return necessary


def _leave_one_out(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the log-sum-exp over dimension 1 of all terms `(B, K, H, W)`, and of all but each one, `(B, K, H, W)`."""
    none = torch.full_like(terms[:, :1], -torch.inf)
    before, after = none, none
    rows = [none]
    for slot in range(terms.shape[1] - 1):
        before = torch.logaddexp(before, terms[:, slot : slot + 1])
        rows.append(before)
    for slot in reversed(range(1, terms.shape[1])):
        after = torch.logaddexp(after, terms[:, slot : slot + 1])
        rows[slot - 1] = torch.logaddexp(rows[slot - 1], after)
    return torch.logaddexp(after, terms[:, :1])[:, 0], torch.cat(rows, 1)


def estimate_sigma(
    masks: Tensor, slot_images: Tensor, images: Tensor, iterations: int = ESTIMATION_ITERATIONS
) -> Tensor:
    """Estimate the standard deviation of each image by expectation maximisation, all else fixed.

    Args:
        masks: Mixture weights, `(B, K, H, W)`, which sum to 1 over the slots.
        slot_images: Means, `(B, K, 3, H, W)`.
        images: `(B, 3, H, W)`, in the range of the means.
        iterations: Iterations, at least 1; the first takes `masks` as the posterior.

    Returns:
        `(B,)`, float32, at least `MIN_SIGMA`.
    """
    return _estimate_sigma(masks, _squared_errors(slot_images, images), iterations)


def _estimate_sigma(masks: Tensor, errors: Tensor, iterations: int = ESTIMATION_ITERATIONS) -> Tensor:
    """Estimate sigma by squared errors `(B, K, H, W)`."""
    weights = masks
    for _ in range(iterations):
        variance = (weights * errors).sum(1).mean((1, 2)) / 3
        sigma = variance.sqrt().clamp_min(MIN_SIGMA)
        weights = _log_joint(masks, errors, sigma).softmax(1)
    return sigma


def _squared_errors(slot_images: Tensor, images: Tensor) -> Tensor:
    """Compute the squared distance of colours, `(B, K, H, W)`."""
    return (slot_images.float() - images.float()[:, None]).square().sum(2)


def _log_joint(masks: Tensor, errors: Tensor, sigma: Tensor) -> Tensor:
    """Compute log m_k - |x - x_k|^2 / (2 sigma^2), `(B, K, H, W)`."""
    return masks.float().clamp_min(_MIN_MASK).log() - errors / (2 * sigma.square()).view(-1, 1, 1, 1)


def _log_marginal(joint: Tensor, sigma: Tensor) -> Tensor:
    """Compute log p(x), `(B, H, W)`, of the result of `_log_joint`, which lacks the normalisation of the Gaussian."""
    return joint.logsumexp(1) - 3 * (sigma.log() + math.log(2 * math.pi) / 2).view(-1, 1, 1)
