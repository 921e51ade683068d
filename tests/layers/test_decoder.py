import itertools

import pytest
import torch
from torch import Tensor

from object_discovery.layers import BroadcastDecoder
from object_discovery.layers.decoder import BroadcastLayer, SameConvTranspose2d
from object_discovery.layers.encoder import SameConv2d

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


def scattered(images: Tensor, layer: SameConvTranspose2d, dropped: int) -> Tensor:
    """Add a kernel for every pixel onto a large canvas, then leave out `dropped` rows and columns before the image."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    (_, _, height, width), outputs = images.shape, layer.out_channels
    canvas = images.new_zeros(len(images), outputs, height * stride + kernel, width * stride + kernel)
    for row, column in itertools.product(range(height), range(width)):
        top, left = row * stride, column * stride
        kernels = torch.einsum("bi,iokl->bokl", images[:, :, row, column], layer.weight)
        canvas[:, :, top : top + kernel, left : left + kernel] += kernels
    rows, columns = slice(dropped, dropped + height * stride), slice(dropped, dropped + width * stride)
    assert layer.bias is not None
    return canvas[:, :, rows, columns] + layer.bias[:, None, None]


@pytest.mark.parametrize(
    ("kernel", "stride", "dropped"), [(5, 2, 1), (5, 1, 2), (3, 1, 1), (3, 2, 0), (4, 2, 1), (6, 4, 1), (1, 1, 0)]
)
def test_transposed_convolution_drops_what_the_original_drops(kernel: int, stride: int, dropped: int) -> None:
    layer = SameConvTranspose2d(2, 3, kernel, stride).double()
    images = torch.randn(2, 2, 4, 3).double()
    with torch.no_grad():
        torch.testing.assert_close(layer(images), scattered(images, layer, dropped))


def test_five_by_five_at_stride_two_is_padding_one_without_the_last_row_and_column() -> None:
    layer = SameConvTranspose2d(2, 3, 5, 2).double()
    images = torch.randn(2, 2, 6, 6).double()
    plain = torch.nn.functional.conv_transpose2d(images, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(images), plain[..., :-1, :-1])


@pytest.mark.parametrize(("kernel", "stride"), CASES)
def test_transposed_convolution_is_the_adjoint_of_the_convolution(kernel: int, stride: int) -> None:
    # TensorFlow defines it so: with one weight, <transposed(x), y> = <x, convolved(y)>
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
def test_broadcast_layer_is_broadcast_and_convolution(size: int, kernel: int, stride: int, frequencies: int) -> None:
    torch.manual_seed(0)
    layer = BroadcastLayer(size, SameConvTranspose2d(3, 2, kernel, stride), frequencies).double()
    slots = torch.randn(4, 3).double()
    with torch.no_grad():
        broadcast = slots[:, :, None, None].expand(-1, -1, size, size) + layer.position()
        torch.testing.assert_close(layer(slots), layer.convolution(broadcast))
        assert layer(slots).shape == (4, 2, size * stride, size * stride)


def make(resolution: int = 12) -> BroadcastDecoder:
    torch.manual_seed(0)
    return BroadcastDecoder(resolution, slot_size=8, broadcast_size=4, channels=[6, 5], strides=[2, 2]).double()


def test_decoder_is_its_layers_one_after_another() -> None:
    decoder = make(16)
    slots = torch.randn(2, 3, 8).double()
    image, slot_images, masks = decoder(slots)
    layers = [module for module in decoder.modules() if isinstance(module, SameConvTranspose2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers] == [(6, 5, 2), (5, 5, 2), (4, 3, 1)]
    x = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, 4, 4) + decoder.broadcast.position()
    painted = layers[2](layers[1](layers[0](x).clamp(min=0)).clamp(min=0)).view(2, 3, 4, 16, 16)
    torch.testing.assert_close(slot_images, painted[:, :, :3].float())
    weights = painted[:, :, 3].exp()
    expected = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(masks, expected.float())
    torch.testing.assert_close(image, (painted[:, :, :3] * expected[:, :, None]).sum(1).float())


def test_masks_share_out_each_pixel_and_blend_the_image() -> None:
    image, slot_images, masks = make()(torch.randn(2, 3, 8).double())
    assert (image.shape, slot_images.shape, masks.shape) == ((2, 3, 12, 12), (2, 3, 3, 12, 12), (2, 3, 12, 12))
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 12, 12))
    blended = sum(masks[:, k, None] * slot_images[:, k] for k in range(3))
    torch.testing.assert_close(image, blended)
    assert {tensor.dtype for tensor in (image, slot_images, masks)} == {torch.float32}


def test_what_the_strides_reach_beyond_the_image_is_cut_off_at_the_far_border() -> None:
    slots = torch.randn(1, 2, 8).double()
    small, large = make(11), make(16)
    small.load_state_dict(large.state_dict())
    for cut, whole in zip(small(slots), large(slots), strict=True):
        torch.testing.assert_close(cut, whole[..., :11, :11])


def test_slots_that_are_left_out_have_no_mask() -> None:
    decoder = BroadcastDecoder(12, 8, 6, [4], [2])
    slots, present = torch.randn(2, 4, 8), torch.tensor([[True, False, True, False], [True] * 4])
    image, slot_images, masks = decoder(slots, active=present)
    expected = decoder(slots[:1, [0, 2]])
    torch.testing.assert_close(image[:1], expected[0])
    torch.testing.assert_close(slot_images[:1, [0, 2]], expected[1])
    torch.testing.assert_close(masks[:1, [0, 2]], expected[2])
    assert not masks[0, [1, 3]].any()
    torch.testing.assert_close(image[1:], decoder(slots[1:])[0])


def test_slots_are_decoded_each_by_itself() -> None:
    decoder = make()
    slots = torch.randn(1, 3, 8).double()
    order = torch.tensor([2, 0, 1])
    image, slot_images, masks = decoder(slots)
    permuted_image, permuted_slot_images, permuted_masks = decoder(slots[:, order])
    torch.testing.assert_close(permuted_image, image)
    torch.testing.assert_close(permuted_slot_images, slot_images[:, order])
    torch.testing.assert_close(permuted_masks, masks[:, order])


def test_strides_that_do_not_reach_the_resolution_are_refused() -> None:
    assert make(16).resolution == 16
    with pytest.raises(ValueError, match="to reach the resolution 17, but they reach 16"):
        make(17)


@pytest.mark.parametrize("kernel", [3, 4, 6])
def test_the_last_layer_may_upsample(kernel: int) -> None:
    decoder = BroadcastDecoder(
        12, slot_size=8, broadcast_size=3, channels=[4], strides=[1], final_kernel_size=kernel, final_stride=4
    )
    image, slot_images, masks = decoder(torch.randn(1, 2, 8))
    assert (image.shape, slot_images.shape, masks.shape) == ((1, 3, 12, 12), (1, 2, 3, 12, 12), (1, 2, 12, 12))
    torch.testing.assert_close(masks.sum(1), torch.ones(1, 12, 12))
