"""Building blocks of GNM: linear layers and convolutions, each followed by CELU and then a normalisation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GridNorm(nn.Module):
    """Group normalisation with one group, channels last: statistics over all cells and channels of an image.

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

    def forward(self, features: Tensor) -> Tensor:
        """Normalise `(B, N, C)`."""
        return F.layer_norm(features, features.shape[1:]) * self.weight + self.bias


def mlp(sizes: Sequence[int], *, output_activation: bool = False) -> nn.Sequential:
    """Build an MLP of linear layers, each followed by CELU and layer normalisation.

    Args:
        sizes: Sizes of the input and of each layer's output.
        output_activation: Apply CELU and layer normalisation after the last layer, too.

    Example:
        >>> mlp([4, 8, 2])(torch.rand(3, 4)).shape
        torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for in_features, out_features in itertools.pairwise(sizes):
        layers += [nn.Linear(in_features, out_features), nn.CELU(), nn.LayerNorm(out_features)]
    return nn.Sequential(*(layers if output_activation else layers[:-2]))


class UpBlock(nn.Module):
    """Sub-pixel upsampling block: convolution, pixel shuffle, CELU, group normalisation with one group.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        factor: Upscaling factor of height and width.
        kernel_size: Height and width of the kernel, odd.
        activation: Apply CELU and the normalisation.

    Example:
        >>> UpBlock(8, 4, 2)(torch.rand(3, 8, 5, 5)).shape
        torch.Size([3, 4, 10, 10])
    """

    def __init__(
        self, in_channels: int, out_channels: int, factor: int, kernel_size: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        self.factor = factor
        self.convolution = nn.Conv2d(in_channels, out_channels * factor**2, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(1, out_channels) if activation else None

    def forward(self, features: Tensor) -> Tensor:
        """Upsample `(B, C, H, W)`."""
        weight, padding = self.convolution.weight, self.convolution.kernel_size[0] // 2
        if features.shape[-2:] == (1, 1):  # at 1 x 1 only the centre of the kernel meets anything but zero padding
            centre = weight.shape[-1] // 2
            weight, padding = weight[..., centre : centre + 1, centre : centre + 1], 0
        features = F.conv2d(features, weight, self.convolution.bias, padding=padding)
        features = F.pixel_shuffle(features, self.factor) if self.factor > 1 else features
        return features if self.norm is None else self.norm(F.celu(features))
