import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import Tensor

from object_discovery.layers import ConvEncoder
from object_discovery.layers.encoder import SameConv2d


def same_at_stride_one(images: Tensor, weight: Tensor) -> Tensor:
    """Correlate with zeros around the image, by SciPy, for kernels of odd size."""
    rows = [
        [sum(correlate2d(x, w, mode="same") for x, w in zip(image, kernel, strict=True)) for kernel in weight.numpy()]
        for image in images.numpy()
    ]
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "first"),  # `first`: the pixel under the middle of the kernel at the first output
    [(8, 5, 1, 0), (9, 3, 1, 0), (8, 5, 2, 1), (35, 5, 2, 0), (8, 3, 2, 1), (9, 3, 2, 0), (12, 5, 4, 2), (6, 1, 1, 0)],
)
def test_padding_is_that_of_the_original_models(size: int, kernel: int, stride: int, first: int) -> None:
    layer = SameConv2d(3, 4, kernel, stride).double()
    images = torch.randn(2, 3, size, size).double()
    with torch.no_grad():
        everywhere = same_at_stride_one(images, layer.weight)
        assert layer.bias is not None
        expected = everywhere[..., first::stride, first::stride] + layer.bias[:, None, None]
        torch.testing.assert_close(layer(images), expected)
        assert layer(images).shape[-1] == -(-size // stride)


def test_even_images_at_stride_two_are_padded_by_one_before_and_two_after() -> None:
    layer = SameConv2d(1, 1, 5, 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()  # type: ignore[union-attr]
        counts = layer(torch.ones(1, 1, 8, 8))[0, 0]  # pixels of the image under the kernel
    per_side = torch.tensor([4.0, 5, 5, 3])
    assert torch.equal(counts, per_side[:, None] * per_side)


def test_height_and_width_are_padded_each_by_its_own() -> None:
    layer = SameConv2d(2, 3, 5, 2).double()
    images = torch.randn(1, 2, 9, 8).double()
    with torch.no_grad():
        expected = same_at_stride_one(images, layer.weight)[..., 0::2, 1::2]
        assert layer.bias is not None
        torch.testing.assert_close(layer(images), expected + layer.bias[:, None, None])


@pytest.mark.parametrize(("resolution", "side"), [(16, 8), (15, 8)])
def test_features_are_those_of_the_grid_row_by_row(resolution: int, side: int) -> None:
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


def test_each_convolution_is_followed_by_a_relu() -> None:
    encoder = ConvEncoder(8, [4, 4], [1, 1])
    images = torch.randn(1, 3, 8, 8)
    expected = images
    for layer in (m for m in encoder.modules() if isinstance(m, SameConv2d)):
        expected = layer(expected).clamp(min=0)
    torch.testing.assert_close(encoder.convolutions(images), expected)


def test_the_position_reaches_the_features() -> None:
    torch.manual_seed(0)
    features = ConvEncoder(8, [16], [1])(torch.zeros(1, 3, 8, 8))[0]
    inner = features.view(8, 8, 16)[2:6, 2:6].flatten(0, 1)  # away from the border all pixels look alike
    assert len(torch.unique(inner, dim=0)) == 16


def test_every_channel_needs_a_stride() -> None:
    with pytest.raises(ValueError, match="zip"):
        ConvEncoder(8, [4, 4], [1])


def test_residual_features_begin_as_colours() -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder(16, [8, 8, 8], [2, 1, 1], residual=True)
    encoder.init_as_identity()
    image = torch.rand(1, 3, 16, 16)
    first = encoder.convolutions[0]
    torch.testing.assert_close(encoder.convolutions(image), first(image))
    encoder(image).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_strided_residual_encoder_has_a_nonlinear_stem() -> None:
    encoder = ConvEncoder(32, [8, 8, 8], [2, 2, 1], residual=True)
    assert [type(layer).__name__ for layer in encoder.convolutions] == ["SameConv2d", "ReLU", "SameConv2d", "Residual"]
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 64, 8)
