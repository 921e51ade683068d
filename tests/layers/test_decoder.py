import itertools

import pytest
import torch
from torch import Tensor

from object_discovery.layers import BroadcastDecoder
from object_discovery.layers.convolutions import SameConv2d, SameConvTranspose2d
from object_discovery.layers.decoder import BroadcastLayer

CASES = [
    (1, 1),
    (1, 2),
    (3, 4),
    (3, 1),
    (4, 1),
    (5, 1),
    (2, 2),
    (3, 2),
    (4, 2),
    (5, 2),
    (3, 3),
    (5, 3),
    (6, 4),
    (5, 4),
    (8, 4),
]
"""Kernel sizes and strides."""


def transposed_convolution(images: Tensor, layer: SameConvTranspose2d, cropped: int) -> Tensor:
    """Add the kernel times each pixel to a larger output, and crop `cropped` rows and columns at the top and left."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    (_, _, height, width), outputs = images.shape, layer.out_channels
    canvas = images.new_zeros(len(images), outputs, height * stride + kernel, width * stride + kernel)
    for row, column in itertools.product(range(height), range(width)):
        top, left = row * stride, column * stride
        kernels = torch.einsum("bi,iokl->bokl", images[:, :, row, column], layer.weight)
        canvas[:, :, top : top + kernel, left : left + kernel] += kernels
    rows, columns = slice(cropped, cropped + height * stride), slice(cropped, cropped + width * stride)
    assert layer.bias is not None
    return canvas[:, :, rows, columns] + layer.bias[:, None, None]


@pytest.mark.parametrize(
    ("kernel", "stride", "cropped"), [(5, 2, 1), (5, 1, 2), (3, 1, 1), (3, 2, 0), (4, 2, 1), (6, 4, 1), (1, 1, 0)]
)
def test_transposed_convolution_matches_tensorflow_same_padding(kernel: int, stride: int, cropped: int) -> None:
    layer = SameConvTranspose2d(2, 3, kernel, stride).double()
    images = torch.randn(2, 2, 4, 3).double()
    with torch.no_grad():
        torch.testing.assert_close(layer(images), transposed_convolution(images, layer, cropped))


def test_kernel_5_stride_2_equals_padding_1_without_last_row_and_column() -> None:
    layer = SameConvTranspose2d(2, 3, 5, 2).double()
    images = torch.randn(2, 2, 6, 6).double()
    plain = torch.nn.functional.conv_transpose2d(images, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(images), plain[..., :-1, :-1])


@pytest.mark.parametrize(("kernel", "stride"), CASES)
def test_transposed_convolution_is_adjoint_of_convolution(kernel: int, stride: int) -> None:
    # the definition in TensorFlow: with equal weights, <transposed(x), y> = <x, convolved(y)>
    up, down = SameConvTranspose2d(2, 3, kernel, stride).double(), SameConv2d(3, 2, kernel, stride).double()
    x, y = torch.randn(1, 2, 5, 5).double(), torch.randn(1, 3, 5 * stride, 5 * stride).double()
    with torch.no_grad():
        down.weight.copy_(up.weight)
        for layer in (up, down):
            layer.bias.zero_()  # type: ignore[union-attr]
        torch.testing.assert_close((up(x) * y).sum(), (x * down(y)).sum())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize(("kernel", "stride"), [*CASES, (7, 1), (7, 2), (9, 2)])
@pytest.mark.parametrize("frequencies", [0, 2])
def test_broadcast_layer_equals_broadcast_then_convolution(
    size: int, kernel: int, stride: int, frequencies: int
) -> None:
    torch.manual_seed(0)
    layer = BroadcastLayer(size, SameConvTranspose2d(3, 2, kernel, stride), frequencies).double()
    slots = torch.randn(4, 3).double()
    with torch.no_grad():
        broadcast = slots[:, :, None, None].expand(-1, -1, size, size) + layer.position()
        torch.testing.assert_close(layer(slots), layer.convolution(broadcast))
        assert layer(slots).shape == (4, 2, size * stride, size * stride)


def make_decoder(resolution: int = 12) -> BroadcastDecoder:
    torch.manual_seed(0)
    return BroadcastDecoder(resolution, slot_size=8, broadcast_size=4, channels=[6, 5], strides=[2, 2]).double()


def test_decoder_equals_its_layers_in_sequence() -> None:
    decoder = make_decoder(16)
    slots = torch.randn(2, 3, 8).double()
    image, slot_images, masks = decoder(slots)
    layers = [module for module in decoder.modules() if isinstance(module, SameConvTranspose2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers] == [(6, 5, 2), (5, 5, 2), (4, 3, 1)]
    x = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, 4, 4) + decoder.broadcast.position()
    decoded = layers[2](layers[1](layers[0](x).clamp(min=0)).clamp(min=0)).view(2, 3, 4, 16, 16)
    torch.testing.assert_close(slot_images, decoded[:, :, :3].float())
    weights = decoded[:, :, 3].exp()
    expected = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(masks, expected.float())
    torch.testing.assert_close(image, (decoded[:, :, :3] * expected[:, :, None]).sum(1).float())


def test_masks_sum_to_one_and_composite_the_image() -> None:
    image, slot_images, masks = make_decoder()(torch.randn(2, 3, 8).double())
    assert (image.shape, slot_images.shape, masks.shape) == ((2, 3, 12, 12), (2, 3, 3, 12, 12), (2, 3, 12, 12))
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 12, 12))
    composite = sum(masks[:, k, None] * slot_images[:, k] for k in range(3))
    torch.testing.assert_close(image, composite)
    assert {tensor.dtype for tensor in (image, slot_images, masks)} == {torch.float32}


def test_larger_output_is_cropped_at_bottom_and_right() -> None:
    slots = torch.randn(1, 2, 8).double()
    small, large = make_decoder(11), make_decoder(16)
    small.load_state_dict(large.state_dict())
    for cropped_output, full_output in zip(small(slots), large(slots), strict=True):
        torch.testing.assert_close(cropped_output, full_output[..., :11, :11])


def test_inactive_slots_have_zero_masks() -> None:
    decoder = BroadcastDecoder(12, 8, 6, [4], [2])
    slots, active = torch.randn(2, 4, 8), torch.tensor([[True, False, True, False], [True] * 4])
    image, slot_images, masks = decoder(slots, active=active)
    expected = decoder(slots[:1, [0, 2]])
    torch.testing.assert_close(image[:1], expected[0])
    torch.testing.assert_close(slot_images[:1, [0, 2]], expected[1])
    torch.testing.assert_close(masks[:1, [0, 2]], expected[2])
    assert not masks[0, [1, 3]].any()
    torch.testing.assert_close(image[1:], decoder(slots[1:])[0])


def test_decoder_is_equivariant_to_slot_order() -> None:
    decoder = make_decoder()
    slots = torch.randn(1, 3, 8).double()
    order = torch.tensor([2, 0, 1])
    image, slot_images, masks = decoder(slots)
    permuted_image, permuted_slot_images, permuted_masks = decoder(slots[:, order])
    torch.testing.assert_close(permuted_image, image)
    torch.testing.assert_close(permuted_slot_images, slot_images[:, order])
    torch.testing.assert_close(permuted_masks, masks[:, order])


def test_strides_that_do_not_reach_the_resolution_raise() -> None:
    assert make_decoder(16).resolution == 16
    with pytest.raises(ValueError, match="to reach the resolution 17, but they reach 16"):
        make_decoder(17)


@pytest.mark.parametrize("kernel", [3, 4, 6])
def test_last_layer_can_upsample(kernel: int) -> None:
    decoder = BroadcastDecoder(
        12, slot_size=8, broadcast_size=3, channels=[4], strides=[1], final_kernel_size=kernel, final_stride=4
    )
    image, slot_images, masks = decoder(torch.randn(1, 2, 8))
    assert (image.shape, slot_images.shape, masks.shape) == ((1, 3, 12, 12), (1, 2, 3, 12, 12), (1, 2, 12, 12))
    torch.testing.assert_close(masks.sum(1), torch.ones(1, 12, 12))
