import pytest
import torch
from torch import nn

from object_discovery.models.gnm.encoder import ImageEncoder, Shortcut, num_downsamplings


def test_layers_at_128_pixels_are_those_published() -> None:
    encoder = ImageEncoder(128, grid=4, channels=128)
    convolutions = [layer for layer in encoder.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 16, 32, 32, 64, 64, 128, 128, 128]
    assert [layer.kernel_size[0] for layer in convolutions] == [4, 3, 4, 3, 4, 3, 4, 3, 4]
    assert [layer.stride[0] for layer in convolutions] == [2, 1, 2, 1, 2, 1, 2, 1, 2]
    assert [type(layer) for layer in encoder.layers] == [nn.Conv2d, nn.CELU, nn.GroupNorm] * 9


@pytest.mark.parametrize(("resolution", "grid"), [(128, 4), (64, 4), (64, 8), (32, 4), (35, 4), (35, 5), (8, 8)])
def test_output_is_one_vector_per_cell(resolution: int, grid: int) -> None:
    encoder = ImageEncoder(resolution, grid, channels=8)
    assert encoder(torch.rand(2, 3, resolution, resolution)).shape == (2, grid**2, 8)
    assert num_downsamplings(resolution, grid) >= 1


def test_cells_are_in_row_major_order(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(32, grid=2, channels=8).eval()
    for norm in encoder.layers:
        if isinstance(norm, nn.GroupNorm):
            monkeypatch.setattr(norm, "forward", lambda features: features)  # its statistics are global
    images = torch.zeros(2, 3, 32, 32)
    images[1, :, :4, -4:] = 1
    difference = (encoder(images)[1] - encoder(images)[0]).abs().sum(1)
    assert difference.argmax() == 1  # top right


def test_receptive_field_of_the_shortcut_is_3_x_3_cells() -> None:
    torch.manual_seed(0)
    shortcut, images = Shortcut(4, channels=8), torch.zeros(2, 3, 32, 32)
    images[1, :, 1:3, 1:3] = 1  # in the cell at the top left
    is_changed = (shortcut(images)[1] - shortcut(images)[0]).abs().sum(0) > 0
    assert is_changed.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_output_is_the_sum_of_convolutions_and_shortcut() -> None:
    torch.manual_seed(0)
    encoder, images = ImageEncoder(16, grid=2, channels=8, shortcut=True), torch.rand(2, 3, 16, 16)
    assert encoder.shortcut is not None
    scaled = 4 * images - 2
    expected = encoder.layers(scaled) + encoder.shortcut(scaled)
    torch.testing.assert_close(encoder(images), expected.flatten(2).transpose(1, 2))
