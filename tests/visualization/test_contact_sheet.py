import numpy as np
import pytest
from PIL import Image

from object_discovery.visualization.contact_sheet import Example, contact_sheet
from object_discovery.visualization.palette import palette


def test_label_maps_are_coloured_and_to_the_right_of_their_images() -> None:
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


def test_small_images_are_enlarged_by_nearest_neighbour_and_large_ones_reduced_by_lanczos() -> None:
    small = np.arange(4 * 3, dtype=np.uint8).reshape(2, 2, 3)
    large = np.random.default_rng(0).integers(0, 256, (80, 40, 3), np.uint8)
    sheet = contact_sheet([Example(small, None), Example(large, None)], tile=8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(sheet[6:14, 6:14], small.repeat(4, 0).repeat(4, 1))
    expected = np.asarray(Image.fromarray(large).resize((4, 8), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(sheet[6:14, 20:24], expected)


def test_scenes_are_arranged_in_rows() -> None:
    scenes = [Example(np.full((10, 10, 3), value, np.uint8), None) for value in range(5)]
    sheet = contact_sheet(scenes, tile=10)
    assert sheet.shape == (3, 2 * 16 + 6, 3 * 16 + 6)
    corners = [(6 + 16 * (k // 3), 6 + 16 * (k % 3)) for k in range(5)]
    assert [sheet[:, top, left].tolist() for top, left in corners] == [[value] * 3 for value in range(5)]
    assert (sheet[:, 22:, 38:] == 255).all()


def test_no_scene_and_empty_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="`examples` to be at least one scene, but got none"):
        contact_sheet([])
    with pytest.raises(ValueError, match="`tile` to be at least 1, but got 0"):
        contact_sheet([Example(np.zeros((2, 2, 3), np.uint8), None)], tile=0)
