"""The image encoder: what an image holds around each cell of a grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDEST = 128


def halvings(resolution: int, grid: int) -> int:
    """Choose how often images are halved: until about `grid` positions remain, at least once.

    Example:
        >>> [halvings(size, 4) for size in (32, 35, 64, 128)]
        [3, 3, 4, 5]
    """
    return max(1, round(math.log2(resolution / grid)))


_FINE = 4  # rows and columns of colours that the shortcut sees in each cell


class Shortcut(nn.Module):
    """Read a cell from the colours in and next to it, and from how much they differ from the image's median colour.

    One linear map. The many normalised layers take thousands of steps to let colours through; with this, objects are
    painted in their colours and boxes move to them after some hundred. Not published.

    Args:
        grid: G.
        channels: C.

    Example:
        >>> Shortcut(4, channels=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, grid: int, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.read = nn.Conv2d(4 * _FINE**2, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Read `(B, 3, H, W)` as `(B, C, G, G)`."""
        median = images.flatten(2).median(2).values[:, :, None, None]
        contrast = 2 * (images - median).abs().mean(1, keepdim=True)
        cells = F.adaptive_avg_pool2d(torch.cat([images, contrast], 1), self.grid * _FINE)
        return self.read(F.pixel_unshuffle(cells, _FINE))  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Encode images as one vector for each cell of a grid.

    Letters: B images, N = G x G cells in rows from the top left, C channels.

    Each halving is a convolution with kernel 4 and stride 2; all but the last are followed by one with kernel 3. Where
    the resolution is no `grid` times a power of two, images are resized first.

    Args:
        resolution: Height and width of the images in pixels.
        grid: G.
        channels: C.
        shortcut: Add a `Shortcut` to what the convolutions see, and let both see colours in [-2, 2]. Not published.

    Example:
        >>> ImageEncoder(32, grid=4, channels=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 16, 8])
    """

    def __init__(self, resolution: int, grid: int, channels: int, *, shortcut: bool = False) -> None:
        super().__init__()
        times = halvings(resolution, grid)
        self.size = grid * 2**times
        layers: list[nn.Module] = []
        before = 3
        for number in range(times):
            last = number == times - 1
            width = channels if last else min(16 * 2**number, _WIDEST)
            layers += [nn.Conv2d(before, width, 4, 2, padding=1), nn.CELU(), nn.GroupNorm(1, width)]
            if not last:
                layers += [nn.Conv2d(width, width, 3, padding=1), nn.CELU(), nn.GroupNorm(1, width)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.shortcut = Shortcut(grid, channels) if shortcut else None

    def forward(self, images: Tensor) -> Tensor:
        """Encode `(B, 3, H, W)` as `(B, N, C)`."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        if self.shortcut is None:
            return self.layers(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
        images = 4 * (images - 0.5)
        return (self.layers(images) + self.shortcut(images)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
