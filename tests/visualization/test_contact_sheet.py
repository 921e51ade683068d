import numpy as np
import pytest
from PIL import Image

from object_discovery.visualization.contact_sheet import Example, contact_sheet
from object_discovery.visualization.palette import palette


def test_images_stand_left_of_their_coloured_maps() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    mask = np.array([[0, 1, 2, 255, 0, 1, 2, 255]] * 4, np.uint8)
    sheet = contact_sheet([Example(image, mask)], tile=8).permute(1, 2, 0).numpy()
    assert sheet.shape == (4 + 2 * 6, 8 + 8 + 3 * 6, 3)
    np.testing.assert_array_equal(sheet[6:10, 6:14], image)
    colours = np.stack([*palette(3), np.full(3, 255)])
    np.testing.assert_array_equal(sheet[6:10, 20:28], colours[np.array([[0, 1, 2, 3] * 2] * 4)])
    margin = sheet.copy()
    margin[6:10, 6:14] = margin[6:10, 20:28] = 255
    assert (margin == 255).all()


def test_small_images_keep_their_pixels_and_large_ones_shrink() -> None:
    small = np.arange(4 * 3, dtype=np.uint8).reshape(2, 2, 3)
    large = np.random.default_rng(0).integers(0, 256, (80, 40, 3), np.uint8)
    sheet = contact_sheet([Example(small, None), Example(large, None)], tile=8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(sheet[6:14, 6:14], small.repeat(4, 0).repeat(4, 1))
    expected = np.asarray(Image.fromarray(large).resize((4, 8), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(sheet[6:14, 20:24], expected)


def test_scenes_stand_in_rows() -> None:
    scenes = [Example(np.full((10, 10, 3), value, np.uint8), None) for value in range(5)]
    sheet = contact_sheet(scenes, tile=10)
    assert sheet.shape == (3, 2 * 16 + 6, 3 * 16 + 6)
    places = [(6 + 16 * (k // 3), 6 + 16 * (k % 3)) for k in range(5)]
    assert [sheet[:, top, left].tolist() for top, left in places] == [[value] * 3 for value in range(5)]
    assert (sheet[:, 22:, 38:] == 255).all()


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="Expected at least one scene"):
        contact_sheet([])
    with pytest.raises(ValueError, match="but got 1 scenes and 0 pixels"):
        contact_sheet([Example(np.zeros((2, 2, 3), np.uint8), None)], tile=0)
