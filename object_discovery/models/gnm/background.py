"""Background latent z_bg: approximate posterior, conditional prior and decoder."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.models.gnm.blocks import UpBlock, mlp
from object_discovery.models.gnm.distributions import Gaussian

_CHANNELS = (128, 64, 32, 16, 8)
_MAX_FACTORS = (4, 2, 4, 2, 2)


def upscale_factors(size: int) -> list[int]:
    """Choose the upscaling factor of each of the five decoder blocks; their product is `size`, a power of two.

    Example:
        >>> upscale_factors(128), upscale_factors(64), upscale_factors(16)
        ([4, 2, 4, 2, 2], [4, 2, 4, 2, 1], [4, 2, 2, 1, 1])
    """
    factors = []
    for max_factor in _MAX_FACTORS:
        factors.append(min(max_factor, size))
        size //= factors[-1]
    factors[0] *= size  # above 128 the first block takes the remaining factor
    return factors


class Background(nn.Module):
    """Background latent z_bg with its posterior, its prior given z_g, and its decoder.

    Args:
        resolution: Height and width of the images in pixels.
        encoded_size: Size of the flattened image features, N C.
        global_size: Size of the flattened global latent z_g, L D.
        size: Size of z_bg.

    Example:
        >>> import torch
        >>> background = Background(32, encoded_size=64, global_size=12, size=10)
        >>> background.infer(torch.rand(2, 4, 16)).mean.shape, background.decode(torch.rand(2, 10)).shape
        (torch.Size([2, 10]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, resolution: int, encoded_size: int, global_size: int, size: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.posterior = mlp([encoded_size, 512, 256, 2 * size])
        self.prior = mlp([global_size, 128, 64, 2 * size])
        decoded_size = 2 ** max(2, round(math.log2(resolution)))
        channels = (size, *_CHANNELS)
        blocks = zip(channels[:-1], channels[1:], upscale_factors(decoded_size), strict=True)
        self.blocks = nn.Sequential(*(UpBlock(inputs, outputs, factor) for inputs, outputs, factor in blocks))
        self.colours = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def infer(self, features: Tensor) -> Gaussian:
        """Compute the approximate posterior q(z_bg | x) from image features `(B, N, C)`."""
        return Gaussian.from_raw(self.posterior(features.transpose(1, 2).flatten(1)))

    def conditional_prior(self, global_latent: Tensor) -> Gaussian:
        """Compute the prior p(z_bg | z_g) from the global latent `(B, L, D)`."""
        return Gaussian.from_raw(self.prior(global_latent.flatten(1)))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z_bg `(B, size)` into background images `(B, 3, H, W)`, float32 in [0, 1]."""
        image = self.colours(self.blocks(latent[:, :, None, None])).sigmoid()
        if image.shape[-1] != self.resolution:
            image = F.interpolate(image, (self.resolution,) * 2, mode="bilinear")
        return image.float()  # type: ignore[no-any-return]
