import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import Tensor

from object_discovery.layers import ConvEncoder
from object_discovery.layers.convolutions import SameConv2d


def reference_convolution(images: Tensor, weight: Tensor) -> Tensor:
    """Convolve with stride 1 and zero padding by SciPy; for kernels of odd size."""
    rows = [
        [sum(correlate2d(x, w, mode="same") for x, w in zip(image, kernel, strict=True)) for kernel in weight.numpy()]
        for image in images.numpy()
    ]
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "first_pixel"),  # `first_pixel`: centre of the kernel at the first output
    [(8, 5, 1, 0), (9, 3, 1, 0), (8, 5, 2, 1), (35, 5, 2, 0), (8, 3, 2, 1), (9, 3, 2, 0), (12, 5, 4, 2), (6, 1, 1, 0)],
)
def test_convolution_matches_tensorflow_same_padding(size: int, kernel: int, stride: int, first_pixel: int) -> None:
    layer = SameConv2d(3, 4, kernel, stride).double()
    images = torch.randn(2, 3, size, size).double()
    with torch.no_grad():
        stride_1_outputs = reference_convolution(images, layer.weight)
        assert layer.bias is not None
        expected = stride_1_outputs[..., first_pixel::stride, first_pixel::stride] + layer.bias[:, None, None]
        torch.testing.assert_close(layer(images), expected)
        assert layer(images).shape[-1] == -(-size // stride)


def test_even_size_at_stride_2_is_padded_by_1_before_and_2_after() -> None:
    layer = SameConv2d(1, 1, 5, 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()  # type: ignore[union-attr]
        counts = layer(torch.ones(1, 1, 8, 8))[0, 0]  # number of pixels under the kernel
    per_side = torch.tensor([4.0, 5, 5, 3])
    assert torch.equal(counts, per_side[:, None] * per_side)


def test_height_and_width_are_padded_separately() -> None:
    layer = SameConv2d(2, 3, 5, 2).double()
    images = torch.randn(1, 2, 9, 8).double()
    with torch.no_grad():
        expected = reference_convolution(images, layer.weight)[..., 0::2, 1::2]
        assert layer.bias is not None
        torch.testing.assert_close(layer(images), expected + layer.bias[:, None, None])


@pytest.mark.parametrize(("resolution", "side"), [(16, 8), (15, 8)])
def test_features_are_in_row_major_order(resolution: int, side: int) -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder(resolution, [6, 5], [2, 1], norm_eps=1e-3)
    images = torch.randn(2, 3, resolution, resolution)
    features = encoder(images)
    assert encoder.size == side
    assert features.shape == (2, side * side, 5)
    grid = encoder.convolutions(images) + encoder.position()
    for row, column in ((0, 0), (0, side - 1), (3, 2), (side - 1, side - 1)):
        expected = encoder.head(grid[:, :, row, column])
        torch.testing.assert_close(features[:, row * side + column], expected)
    assert encoder.head[0].eps == 1e-3


def test_each_convolution_is_followed_by_relu() -> None:
    encoder = ConvEncoder(8, [4, 4], [1, 1])
    images = torch.randn(1, 3, 8, 8)
    expected = images
    for layer in (m for m in encoder.modules() if isinstance(m, SameConv2d)):
        expected = layer(expected).clamp(min=0)
    torch.testing.assert_close(encoder.convolutions(images), expected)


def test_position_embedding_distinguishes_positions() -> None:
    torch.manual_seed(0)
    features = ConvEncoder(8, [16], [1])(torch.zeros(1, 3, 8, 8))[0]
    inner = features.view(8, 8, 16)[2:6, 2:6].flatten(0, 1)  # away from the border the convolution is constant
    assert len(torch.unique(inner, dim=0)) == 16


def test_channels_and_strides_of_unequal_length_raise() -> None:
    with pytest.raises(ValueError, match=r"`strides` to be as long as channels \[4, 4\], but got \[1\]"):
        ConvEncoder(8, [4, 4], [1])


def test_init_as_identity_makes_residual_convolutions_identity() -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder(16, [8, 8, 8], [2, 1, 1], residual=True)
    encoder.init_as_identity()
    image = torch.rand(1, 3, 16, 16)
    first_layer = encoder.convolutions[0]
    torch.testing.assert_close(encoder.convolutions(image), first_layer(image))
    encoder(image).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_strided_residual_encoder_has_relu_between_strided_convolutions() -> None:
    encoder = ConvEncoder(32, [8, 8, 8], [2, 2, 1], residual=True)
    assert [type(layer).__name__ for layer in encoder.convolutions] == ["SameConv2d", "ReLU", "SameConv2d", "Residual"]
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 64, 8)
