"""The layers that all parts are made of: linear maps and convolutions, each followed by CELU and a normalisation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GridNorm(nn.Module):
    """Normalise the cells and channels of each image together: a group normalisation with one group, channels last.

    Args:
        channels: C.

    Example:
        >>> GridNorm(8)(torch.rand(2, 16, 8)).mean((1, 2)).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, cells: Tensor) -> Tensor:
        """Normalise `(B, N, C)`."""
        return F.layer_norm(cells, cells.shape[1:]) * self.weight + self.bias


def mlp(sizes: Sequence[int], *, raw: bool = True) -> nn.Sequential:
    """Make linear layers, each followed by CELU and a layer normalisation.

    Args:
        sizes: Sizes of the input and of each layer's output.
        raw: Leave the last layer as it is.

    Example:
        >>> mlp([4, 8, 2])(torch.rand(3, 4)).shape
        torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.CELU(), nn.LayerNorm(after)]
    return nn.Sequential(*(layers[:-2] if raw else layers))


class UpBlock(nn.Module):
    """A convolution, a pixel shuffle, CELU and a group normalisation: the image becomes larger.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        factor: How many times as high and wide the result is.
        kernel_size: Height and width of the kernel, odd.
        raw: Leave CELU and the normalisation out.

    Example:
        >>> UpBlock(8, 4, 2)(torch.rand(3, 8, 5, 5)).shape
        torch.Size([3, 4, 10, 10])
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int, kernel_size: int = 1, raw: bool = False):
        super().__init__()
        self.factor = factor
        self.convolution = nn.Conv2d(in_channels, out_channels * factor**2, kernel_size, padding=kernel_size // 2)
        self.norm = None if raw else nn.GroupNorm(1, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Enlarge `(B, C, H, W)`."""
        weight, padding = self.convolution.weight, self.convolution.kernel_size[0] // 2
        if features.shape[-2:] == (1, 1):  # all else of the kernel would meet padding only
            middle = weight.shape[-1] // 2
            weight, padding = weight[..., middle : middle + 1, middle : middle + 1], 0
        features = F.conv2d(features, weight, self.convolution.bias, padding=padding)
        features = F.pixel_shuffle(features, self.factor) if self.factor > 1 else features
        return features if self.norm is None else self.norm(F.celu(features))
