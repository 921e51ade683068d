"""Convolutional image encoder with one feature vector for each cell of a grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_CHANNELS = 128
_POOLED_SIZE = 4  # rows and columns of pooled pixels in each cell, the input of the shortcut


def num_downsamplings(resolution: int, grid: int) -> int:
    """Choose the number of stride-2 convolutions that brings an image to about `grid` x `grid`, at least 1.

    Example:
        >>> [num_downsamplings(size, 4) for size in (32, 35, 64, 128)]
        [3, 3, 4, 5]
    """
    return max(1, round(math.log2(resolution / grid)))


class Shortcut(nn.Module):
    """Linear skip connection from pooled pixels to cell features. Not published.

    The inputs are average-pooled colours and their absolute difference from the image's median colour; a 3 x 3
    convolution over cells maps them to features. The normalised convolutions take thousands of steps to pass colours
    on; with this shortcut, glimpses have the objects' colours and boxes move onto objects after some hundred.

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
        self.read = nn.Conv2d(4 * _POOLED_SIZE**2, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(B, 3, H, W)` to features `(B, C, G, G)`."""
        median = images.flatten(2).median(2).values[:, :, None, None]
        contrast = 2 * (images - median).abs().mean(1, keepdim=True)
        pooled = F.adaptive_avg_pool2d(torch.cat([images, contrast], 1), self.grid * _POOLED_SIZE)
        return self.read(F.pixel_unshuffle(pooled, _POOLED_SIZE))  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Convolutional encoder: one feature vector for each cell of a G x G grid.

    Shapes: B images, N = G x G cells in row-major order, C channels.

    Each downsampling is a convolution with kernel 4 and stride 2; all but the last are followed by one with kernel 3
    and stride 1. Images whose resolution is not `grid` times a power of two are resized first.

    Args:
        resolution: Height and width of the images in pixels.
        grid: G.
        channels: C.
        shortcut: Add the output of a `Shortcut` to that of the convolutions, and scale the input of both from [0, 1]
            to [-2, 2]. Not published.

    Example:
        >>> ImageEncoder(32, grid=4, channels=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 16, 8])
    """

    def __init__(self, resolution: int, grid: int, channels: int, *, shortcut: bool = False) -> None:
        super().__init__()
        num_stages = num_downsamplings(resolution, grid)
        self.size = grid * 2**num_stages
        layers: list[nn.Module] = []
        in_channels = 3
        for stage in range(num_stages):
            is_last = stage == num_stages - 1
            out_channels = channels if is_last else min(16 * 2**stage, _MAX_CHANNELS)
            layers += [nn.Conv2d(in_channels, out_channels, 4, 2, padding=1), nn.CELU(), nn.GroupNorm(1, out_channels)]
            if not is_last:
                layers += [nn.Conv2d(out_channels, out_channels, 3, padding=1), nn.CELU()]
                layers += [nn.GroupNorm(1, out_channels)]
            in_channels = out_channels
        self.layers = nn.Sequential(*layers)
        self.shortcut = Shortcut(grid, channels) if shortcut else None

    def forward(self, images: Tensor) -> Tensor:
        """Encode images `(B, 3, H, W)` as cell features `(B, N, C)`."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        if self.shortcut is None:
            return self.layers(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
        images = 4 * (images - 0.5)
        return (self.layers(images) + self.shortcut(images)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
