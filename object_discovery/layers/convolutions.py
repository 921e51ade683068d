"""Convolutions with TensorFlow's padding 'SAME'."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's padding 'SAME': ceil(size / stride) outputs.

    Where the padding is odd, the extra row and column are at the bottom and the right, unlike `padding=kernel // 2`.

    Example:
        >>> import torch
        >>> SameConv2d(3, 8, 5, stride=2)(torch.zeros(1, 3, 35, 64)).shape
        torch.Size([1, 8, 18, 32])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(B, C, H, W)`."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in input.shape[-2:]]
        (top, left), (bottom, right) = (p // 2 for p in pads), ((p + 1) // 2 for p in pads)
        if top == bottom and left == right:
            return F.conv2d(input, self.weight, self.bias, self.stride, (top, left))
        return F.conv2d(F.pad(input, (left, right, top, bottom)), self.weight, self.bias, self.stride)


class SameConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution with TensorFlow's padding 'SAME': `size * stride` outputs.

    Example:
        >>> import torch
        >>> SameConvTranspose2d(8, 4, 5, stride=2)(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 4, 32, 32])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Upsample `(B, C, h, w)` to `(B, C', h * stride, w * stride)`."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride == 1 and kernel % 2:  # equal to a convolution, which is faster
            return F.conv2d(input, self.weight.flip(2, 3).transpose(0, 1), self.bias, padding=(kernel - 1) // 2)
        padding = (kernel - stride) // 2 if kernel > stride else 0
        # The full output has (size - 1) * stride + kernel entries; SAME crops the first (kernel - stride) // 2 of them.
        output = F.conv_transpose2d(input, self.weight, self.bias, stride, padding, max(0, stride - kernel))
        return output[..., : input.shape[-2] * stride, : input.shape[-1] * stride]
