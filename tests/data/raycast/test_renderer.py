import colorsys

import numpy as np
import torch

from object_discovery.data.raycast.layout import COLOURS, Layout
from object_discovery.data.raycast.primary import make_geometry
from object_discovery.data.raycast.renderer import _encode_srgb, render
from tests.data.raycast.rooms import make_room


def _render(room: Layout, resolution: int = 64) -> tuple[np.ndarray, np.ndarray]:
    material, colour = torch.from_numpy(room.material), torch.from_numpy(room.colour)
    image, labels, _ = render(make_geometry(room), material, colour, resolution)
    return image[0].numpy().astype(float), labels[0].numpy()


def test_objects_have_the_hue_of_their_colour() -> None:
    for metal in (False, True):
        for number, (name, colour) in enumerate(COLOURS.items()):
            image, labels = _render(make_room(("sphere", 1, 0.0, 0.0), metal=metal, colour=number))
            mean = (image[labels == 1] / 255).mean(0)
            hue, saturation, _ = colorsys.rgb_to_hsv(*mean)
            expected, full, _ = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
            if name == "gray":
                assert saturation < 0.05
            else:
                assert min(abs(hue - expected), 1 - abs(hue - expected)) < 0.06
                assert saturation > 0.4 * full


def test_shadows_darken_a_part_of_the_floor() -> None:
    empty, _ = _render(make_room())
    image, labels = _render(make_room(("cylinder", 1, 0.0, 0.0)))
    change = (image - empty).mean(-1)[labels == 0]
    assert change.min() < -15
    assert change.max() <= 3  # edges are smoothed
    assert (np.abs(change) < 1).mean() > 0.4


def test_metal_has_sharper_highlights_than_rubber() -> None:
    contrast = {}
    for metal in (False, True):
        image, labels = _render(make_room(("sphere", 1, 0.0, 0.0), metal=metal))
        brightness = image[labels == 1].mean(-1)
        contrast[metal] = brightness.max() / np.median(brightness)
    assert contrast[True] > 1.3 * contrast[False]


def test_the_floor_is_as_bright_as_in_the_published_images() -> None:
    image, _ = _render(make_room())
    # medians of the published floor over a hundred scenes: top, middle and bottom of the crop
    np.testing.assert_allclose([image[row].mean() for row in (2, 32, 61)], [105, 127, 142], atol=7)


def test_srgb_encoding_equals_the_standard_curve() -> None:
    linear = torch.linspace(0, 1, 1001)
    expected = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert (_encode_srgb(linear).float() - 255 * expected).abs()[10:].max() < 1.5
    assert _encode_srgb(torch.tensor([-1.0, 2.0])).tolist() == [0, 255]


def test_odd_resolutions_agree_with_multiples() -> None:
    room = make_room(("cube", 1, 0.0, 0.0))
    image, labels = _render(room, 37)
    assert image.shape == (37, 37, 3)
    large, _ = _render(room, 111)
    is_floor = labels == 0
    assert np.abs(large[1::3, 1::3] - image)[is_floor].mean() < 1
