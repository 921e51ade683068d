"""Convolutional encoder of Slot Attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from object_discovery.errors import check_argument
from object_discovery.layers.convolutions import SameConv2d
from object_discovery.layers.position import PositionEmbedding


class Residual(nn.Module):
    """Residual convolution, `x + convolution(relu(norm(x)))`.

    Args:
        convolution: A convolution that keeps the shape.
        batch_norm: Apply batch normalisation before the ReLU.

    Example:
        >>> Residual(SameConv2d(4, 4, 3))(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    def __init__(self, convolution: nn.Conv2d, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(convolution.in_channels) if batch_norm else nn.Identity()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Transform features `(B, C, H, W)`."""
        return features + self.convolution(self.norm(features).relu())  # type: ignore[no-any-return]


class ConvEncoder(nn.Module):
    """Convolutions with ReLU, a position embedding, and an MLP on each position (Locatello et al. 2020).

    Args:
        resolution: Height and width of the images.
        channels: Output channels of each convolution.
        strides: Stride of each convolution.
        feature_size: Dimension of the features and of the hidden layer of the MLP. None: the last of `channels`.
        kernel_size: Kernel size.
        frequencies: Octaves of sines and cosines in the position embedding, see `PositionEmbedding`.
        residual: Make every convolution of stride 1 but the first residual, see `init_as_identity`; the others then
            have kernel size 3. Not published.
        batch_norm: Apply batch normalisation in the residual convolutions.
        norm_eps: Epsilon of the layer normalisation.

    Raises:
        ValueError: If `channels` and `strides` differ in length.

    Reference:
        Locatello et al. 2020, appendix E.3.

    Example:
        >>> encoder = ConvEncoder(32, channels=[16, 16], strides=[2, 1])
        >>> encoder(torch.zeros(2, 3, 32, 32)).shape  # 16 x 16 positions
        torch.Size([2, 256, 16])
    """

    def __init__(
        self,
        resolution: int,
        channels: Sequence[int],
        strides: Sequence[int],
        feature_size: int | None = None,
        *,
        kernel_size: int = 5,
        frequencies: int = 0,
        residual: bool = False,
        batch_norm: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        same_length = len(strides) == len(channels)
        check_argument(same_length, "strides", f"as long as channels {list(channels)}", list(strides))
        layers: list[nn.Module] = []
        in_channels, self.size = 3, resolution
        for out_channels, stride in zip(channels, strides, strict=True):
            if not residual:
                layers += [SameConv2d(in_channels, out_channels, kernel_size, stride), nn.ReLU(inplace=True)]
            elif layers and stride == 1 and out_channels == in_channels:
                layers.append(Residual(SameConv2d(out_channels, out_channels, kernel_size), batch_norm=batch_norm))
            else:
                layers += [nn.ReLU(inplace=True)] * bool(layers) + [SameConv2d(in_channels, out_channels, 3, stride)]
            in_channels, self.size = out_channels, -(-self.size // stride)
        self.convolutions = nn.Sequential(*layers)
        self.feature_size = feature_size or in_channels
        self.position = PositionEmbedding(self.size, self.size, in_channels, frequencies)
        self.head = nn.Sequential(
            nn.LayerNorm(in_channels, eps=norm_eps),
            nn.Linear(in_channels, self.feature_size),
            nn.ReLU(inplace=True),
            nn.Linear(self.feature_size, self.feature_size),
        )

    def init_as_identity(self) -> None:
        """Initialise residual convolutions as the identity, and the position embedding with small weights."""
        for layer in self.convolutions:
            if isinstance(layer, Residual):
                nn.init.zeros_(layer.convolution.weight)
                nn.init.zeros_(cast(Tensor, layer.convolution.bias))
        with torch.no_grad():
            self.position.projection.weight *= 0.3

    def forward(self, images: Tensor) -> Tensor:
        """Encode images `(B, 3, H, W)` as features `(B, h * w, feature_size)`, in row-major order."""
        features = self.convolutions(images) + self.position()
        return self.head(features.flatten(2).transpose(1, 2))  # type: ignore[no-any-return]
