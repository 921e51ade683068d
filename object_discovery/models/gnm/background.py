"""The background: one small latent for the whole image, and what it looks like."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.models.gnm.blocks import UpBlock, mlp
from object_discovery.models.gnm.distributions import Gaussian

_CHANNELS = (128, 64, 32, 16, 8)
_FACTORS = (4, 2, 4, 2, 2)


def upscales(size: int) -> list[int]:
    """Choose how much each of the five blocks enlarges, so that a pixel becomes an image of `size`, a power of two.

    Example:
        >>> upscales(128), upscales(64), upscales(16)
        ([4, 2, 4, 2, 2], [4, 2, 4, 2, 1], [4, 2, 2, 1, 1])
    """
    factors = []
    for largest in _FACTORS:
        factors.append(min(largest, size))
        size //= factors[-1]
    factors[0] *= size  # what is left of sizes above 128
    return factors


class Background(nn.Module):
    """Infer, expect and paint the background.

    Args:
        resolution: Height and width of the images in pixels.
        encoded_size: Size of an encoded image, N C.
        global_size: Size of the global latent, L D.
        size: Size of the background's latent.

    Example:
        >>> import torch
        >>> background = Background(32, encoded_size=64, global_size=12, size=10)
        >>> background.infer(torch.rand(2, 4, 16)).mean.shape, background.paint(torch.rand(2, 10)).shape
        (torch.Size([2, 10]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, resolution: int, encoded_size: int, global_size: int, size: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.posterior = mlp([encoded_size, 512, 256, 2 * size])
        self.prior = mlp([global_size, 128, 64, 2 * size])
        painted = 2 ** max(2, round(math.log2(resolution)))
        channels = (size, *_CHANNELS)
        blocks = zip(channels[:-1], channels[1:], upscales(painted), strict=True)
        self.blocks = nn.Sequential(*(UpBlock(before, after, factor) for before, after, factor in blocks))
        self.colours = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def infer(self, encoded: Tensor) -> Gaussian:
        """Return the posterior given encoded images `(B, N, C)`."""
        return Gaussian.of(self.posterior(encoded.transpose(1, 2).flatten(1)))

    def expect(self, latent: Tensor) -> Gaussian:
        """Return the prior given the global latent `(B, L, D)`."""
        return Gaussian.of(self.prior(latent.flatten(1)))

    def paint(self, latent: Tensor) -> Tensor:
        """Paint the backgrounds `(B, 3, H, W)` of latents `(B, size)`, float32 in [0, 1]."""
        image = self.colours(self.blocks(latent[:, :, None, None])).sigmoid()
        if image.shape[-1] != self.resolution:
            image = F.interpolate(image, (self.resolution,) * 2, mode="bilinear")
        return image.float()  # type: ignore[no-any-return]
