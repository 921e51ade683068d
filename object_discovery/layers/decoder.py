"""The spatial broadcast decoder: each slot paints an image and an opacity, and opacities compete."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from object_discovery.layers.compositing import blend_slots
from object_discovery.layers.position import PositionEmbedding
from object_discovery.layers.slot_centric import FrameLayer


class SameConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with the padding 'SAME' of the original models: `size * stride` outputs.

    Example:
        >>> SameConvTranspose2d(8, 4, 5, stride=2)(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 4, 32, 32])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Upsample `(B, C, h, w)` to `(B, C', h * stride, w * stride)`."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride == 1 and kernel % 2:  # the same sum as a convolution, which runs faster
            return F.conv2d(input, self.weight.flip(2, 3).transpose(0, 1), self.bias, padding=(kernel - 1) // 2)
        padding = (kernel - stride) // 2 if kernel > stride else 0
        # The full output is (size - 1) * stride + kernel long; SAME drops (kernel - stride) // 2 entries before it.
        output = F.conv_transpose2d(input, self.weight, self.bias, stride, padding, max(0, stride - kernel))
        return output[..., : input.shape[-2] * stride, : input.shape[-1] * stride]


class BroadcastLayer(nn.Module):
    """The first layer of a broadcast decoder, without the broadcast.

    A slot repeated at every position, plus a position embedding, then convolved: since the convolution is linear,
    that is a linear map of the slot for each position (the sum of the kernel's taps that fall inside the image),
    plus the convolution of the embedding, which all slots share. The result is exact and takes a fraction of the
    time.

    Args:
        size: Height and width of the broadcast, h.
        convolution: The layer.
        frequencies: Octaves of sines in the position embedding, see `PositionEmbedding`.

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
        source = outputs + padding - taps  # stride times the input that a tap brings to an output
        inside = (source % stride == 0) & (source >= 0) & (source < size * stride)
        self.register_buffer("inside", inside.float(), persistent=False)

    def forward(self, slots: Tensor) -> Tensor:
        """Decode slots `(M, D)` into features `(M, C, h * stride, w * stride)`."""
        inside = self.get_buffer("inside")
        weight = torch.einsum("dcuv,yu,xv->dyxc", self.convolution.weight, inside, inside)
        constant = (slots @ weight.flatten(1)).view(-1, *weight.shape[1:])  # (M, y, x, C)
        position = self.convolution(self.position()[None]).permute(0, 2, 3, 1)
        features: Tensor = constant + position
        return features.permute(0, 3, 1, 2)


class BroadcastDecoder(nn.Module):
    """Broadcast each slot over a grid, decode it into colours and an opacity, and blend the slots.

    Args:
        resolution: Height and width of the images; what the strides reach beyond it is cut off at the far border.
        slot_size: D.
        broadcast_size: Height and width of the grid that slots are broadcast over.
        channels: Output channels of each transposed convolution.
        strides: Stride of each transposed convolution.
        kernel_size: Height and width of their kernels.
        final_kernel_size: Height and width of the kernel of the last layer, to colours and opacity.
        final_stride: Stride of the last layer.
        frequencies: Octaves of sines in the position embedding, see `PositionEmbedding`.
        frames: Give positions relative to the centre of each slot. The first layer is then a `FrameLayer`, without a
            convolution; its stride makes the grid finer.

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
        frames: bool = False,
    ) -> None:
        super().__init__()
        reached = broadcast_size * final_stride
        for stride in strides:
            reached *= stride
        if reached < resolution:
            raise ValueError(
                f"Expected arguments `broadcast_size` and `strides` to reach the resolution {resolution}, "
                f"but they reach {reached}"
            )
        self.resolution = resolution
        first, *rest = zip([slot_size, *channels[:-1]], channels, strides, strict=True)
        self.broadcast: BroadcastLayer | FrameLayer
        if frames:
            self.broadcast = FrameLayer(
                broadcast_size * first[2], slot_size, first[1], frequencies, reached / resolution
            )
        else:
            layer = SameConvTranspose2d(first[0], first[1], kernel_size, first[2])
            self.broadcast = BroadcastLayer(broadcast_size, layer, frequencies)
        layers: list[nn.Module] = [nn.ReLU(inplace=True)]
        for inputs, outputs, stride in rest:
            layers += [SameConvTranspose2d(inputs, outputs, kernel_size, stride), nn.ReLU(inplace=True)]
        layers.append(SameConvTranspose2d(channels[-1], 4, final_kernel_size, final_stride))
        self.layers = nn.Sequential(*layers)

    def forward(
        self, slots: Tensor, centres: Tensor | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode slots.

        Args:
            slots: `(B, K, D)`.
            centres: Where slots are, `(B, K, 2)`, see `slot_centres`; used with `frames`. None: in the middle.
            present: Which slots have a mask, `(B, K)`, bool; at least one of each image. None: all.

        Returns:
            The image `(B, 3, H, W)`, the slots' own images `(B, K, 3, H, W)` and their masks `(B, K, H, W)`, which sum
            to 1 over the slots. All float32.
        """
        if isinstance(self.broadcast, FrameLayer):
            features = self.broadcast(slots, slots.new_zeros(*slots.shape[:2], 2) if centres is None else centres)
        else:
            features = self.broadcast(slots.flatten(0, 1))
        painted = self.layers(features)[..., : self.resolution, : self.resolution]
        return blend_slots(rearrange(painted, "(b k) c h w -> b k c h w", b=len(slots)), present)
