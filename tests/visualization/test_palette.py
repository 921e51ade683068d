import colorsys
import itertools

import numpy as np
import pytest
import torch

from object_discovery.visualization.palette import colour_labels, palette


def test_colours_are_distinct_and_shorter_palettes_are_prefixes_of_longer_ones() -> None:
    colours = palette(256)
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    assert np.array_equal(palette(7), colours[:7])


def test_first_colours_are_far_from_each_other_from_white_and_from_the_background() -> None:
    colours = [*palette(12).astype(int), np.array([255, 255, 255])]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)) >= 60


def test_only_the_background_is_grey() -> None:
    saturations = [colorsys.rgb_to_hsv(*(colour / 255))[1] for colour in palette(12)]
    assert saturations[0] == 0
    assert min(saturations[1:]) > 0.3


@pytest.mark.parametrize("n", [0, 257])
def test_sizes_out_of_range_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"`n` to be from 1 to 256, but got {n}"):
        palette(n)


def test_changing_a_palette_leaves_later_ones_unchanged() -> None:
    palette(3)[:] = 0
    assert palette(3).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_label_maps_have_the_colours_of_the_palette_and_white_where_ignored(dtype: torch.dtype) -> None:
    image = colour_labels(torch.tensor([[[0, 3], [255, 254]]], dtype=dtype))
    assert image.shape == (1, 3, 2, 2)
    expected = [palette(1)[0], palette(4)[3], [255, 255, 255], palette(255)[254]]
    assert image[0].flatten(1).T.tolist() == np.stack(expected).tolist()
