import pytest
import torch

from object_discovery.layers import PositionEmbedding
from object_discovery.layers.position import position_grid


def test_position_grid_is_0_and_1_at_the_corners() -> None:
    grid = position_grid(3, 5)  # y, x, 1 - y, 1 - x
    assert grid.shape == (4, 3, 5)
    corners = {(0, 0): [0, 0, 1, 1], (0, 4): [0, 1, 1, 0], (2, 0): [1, 0, 0, 1], (2, 4): [1, 1, 0, 0]}
    for (row, column), values in corners.items():
        assert grid[:, row, column].tolist() == values
    assert grid[:, 1, 1].tolist() == [0.5, 0.25, 0.5, 0.75]


def test_embedding_without_frequencies_is_linear_in_position_grid() -> None:
    embedding = PositionEmbedding(3, 5, 7)
    projection = embedding.projection
    for row, column in ((0, 0), (1, 3), (2, 4)):
        expected = projection.weight @ position_grid(3, 5)[:, row, column] + projection.bias
        torch.testing.assert_close(embedding()[:, row, column], expected)


@pytest.mark.parametrize("frequencies", [1, 3])
def test_frequencies_add_sines_and_cosines_of_octaves(frequencies: int) -> None:
    embedding = PositionEmbedding(4, 6, 4 + 4 * frequencies, frequencies)
    with torch.no_grad():
        embedding.projection.weight.copy_(torch.eye(4 + 4 * frequencies))
        embedding.projection.bias.zero_()
        actual = embedding()
    y, x = torch.linspace(0, 1, 4)[:, None].expand(4, 6), torch.linspace(0, 1, 6)[None].expand(4, 6)
    waves = [
        f(torch.pi * 2**octave * axis)
        for f in (torch.sin, torch.cos)
        for octave in range(frequencies)
        for axis in (y, x)
    ]
    torch.testing.assert_close(actual, torch.stack([y, x, 1 - y, 1 - x, *waves]))


def test_state_dict_holds_only_the_projection() -> None:
    assert set(PositionEmbedding(4, 4, 8, 2).state_dict()) == {"projection.weight", "projection.bias"}
