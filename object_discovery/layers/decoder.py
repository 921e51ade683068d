"""Spatial broadcast decoder (Watters et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from object_discovery.layers.compositing import alpha_composite
from object_discovery.layers.convolutions import SameConvTranspose2d
from object_discovery.layers.position import PositionEmbedding


class BroadcastLayer(nn.Module):
    """Spatial broadcast and first transposed convolution in one.

    The broadcast slot plus position embedding is convolved. As the convolution is linear, this equals a linear map of
    the slot for each position (the sum of the kernel taps that fall inside the grid) plus the convolution of the
    position embedding, which all slots share. Exact, at a fraction of the cost.

    Args:
        size: Height and width of the grid, h.
        convolution: The transposed convolution.
        frequencies: Octaves of sines and cosines in the position embedding, see `PositionEmbedding`.

    Example:
        >>> layer = BroadcastLayer(8, SameConvTranspose2d(16, 32, 5, stride=2))
        >>> layer(torch.zeros(6, 16)).shape
        torch.Size([6, 32, 16, 16])
    """

    def __init__(self, size: int, convolution: SameConvTranspose2d, frequencies: int = 0) -> None:
        super().__init__()
        self.position = PositionEmbedding(size, size, convolution.in_channels, frequencies)
        self.convolution = convolution
        stride, kernel = convolution.stride[0], convolution.kernel_size[0]
        padding = max(0, kernel - stride) // 2
        outputs, taps = torch.arange(size * stride)[:, None], torch.arange(kernel)
        source = outputs + padding - taps  # stride times the index of the input of a tap
        inside = (source % stride == 0) & (source >= 0) & (source < size * stride)
        self.register_buffer("inside", inside.float(), persistent=False)

    def forward(self, slots: Tensor) -> Tensor:
        """Broadcast and convolve slots `(M, D)` to features `(M, C, h * stride, h * stride)`."""
        inside = self.get_buffer("inside")
        weight = torch.einsum("dcuv,yu,xv->dyxc", self.convolution.weight, inside, inside)
        constant = (slots @ weight.flatten(1)).view(-1, *weight.shape[1:])  # (M, y, x, C)
        position = self.convolution(self.position()[None]).permute(0, 2, 3, 1)
        features: Tensor = constant + position
        return features.permute(0, 3, 1, 2)


class BroadcastDecoder(nn.Module):
    """Spatial broadcast decoder: decodes RGB and alpha logits of each slot, and composites the slots.

    Args:
        resolution: Height and width of the images; larger outputs are cropped at the bottom and the right.
        slot_size: D.
        broadcast_size: Height and width of the grid of the spatial broadcast.
        channels: Output channels of each transposed convolution.
        strides: Stride of each transposed convolution.
        kernel_size: Kernel size of each transposed convolution.
        final_kernel_size: Kernel size of the last layer, which outputs RGB and alpha.
        final_stride: Stride of the last layer.
        frequencies: Octaves of sines and cosines in the position embedding, see `PositionEmbedding`.

    Raises:
        ValueError: If the strides do not reach the resolution.

    Reference:
        Watters et al., Spatial Broadcast Decoder, 2019, arXiv 1901.07017; Locatello et al. 2020, appendix E.3.

    Example:
        >>> decoder = BroadcastDecoder(32, slot_size=64, broadcast_size=8, channels=[16, 16], strides=[2, 2])
        >>> image, slot_images, masks = decoder(torch.zeros(2, 5, 64))
        >>> image.shape, slot_images.shape, masks.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 5, 3, 32, 32]), torch.Size([2, 5, 32, 32]))
    """

    def __init__(
        self,
        resolution: int,
        slot_size: int,
        broadcast_size: int,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        kernel_size: int = 5,
        final_kernel_size: int = 3,
        final_stride: int = 1,
        frequencies: int = 0,
    ) -> None:
        super().__init__()
        output_size = broadcast_size * final_stride
        for stride in strides:
            output_size *= stride
        if output_size < resolution:
            raise ValueError(
                f"Expected arguments `broadcast_size` and `strides` to reach the resolution {resolution}, "
                f"but they reach {output_size}"
            )
        self.resolution = resolution
        first, *rest = zip([slot_size, *channels[:-1]], channels, strides, strict=True)
        layer = SameConvTranspose2d(first[0], first[1], kernel_size, first[2])
        self.broadcast = BroadcastLayer(broadcast_size, layer, frequencies)
        layers: list[nn.Module] = [nn.ReLU(inplace=True)]
        for inputs, outputs, stride in rest:
            layers += [SameConvTranspose2d(inputs, outputs, kernel_size, stride), nn.ReLU(inplace=True)]
        layers.append(SameConvTranspose2d(channels[-1], 4, final_kernel_size, final_stride))
        self.layers = nn.Sequential(*layers)

    def forward(self, slots: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Decode slots.

        Args:
            slots: `(B, K, D)`.
            active: Which slots are active, bool `(B, K)`; at least one of each image. None: all.

        Returns:
            Image `(B, 3, H, W)`, slot images `(B, K, 3, H, W)` and masks `(B, K, H, W)`, which sum to 1 over the slots.
            All float32.
        """
        decoded = self.layers(self.broadcast(slots.flatten(0, 1)))[..., : self.resolution, : self.resolution]
        return alpha_composite(rearrange(decoded, "(b k) c h w -> b k c h w", b=len(slots)), active)
