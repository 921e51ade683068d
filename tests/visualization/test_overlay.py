import numpy as np
import pytest

from object_discovery.visualization.overlay import draw_segments, outline_width
from object_discovery.visualization.palette import MASK_ALPHA, palette

COLOURS = np.concatenate([palette(255), np.full((1, 3), 255, np.uint8)])


def two_halves(height: int, width: int, left: int = 1, right: int = 2) -> np.ndarray:  # type: ignore[type-arg]
    labels = np.full((height, width), left, np.uint8)
    labels[:, width // 2 :] = right
    return labels


def test_segments_are_tinted_and_the_background_is_not() -> None:
    image = np.full((600, 800, 3), 100, np.uint8)
    overlay = draw_segments(image, two_halves(600, 800, 0, 2), COLOURS)
    assert overlay.shape == (3, 600, 800)
    assert overlay[:, 0, 0].tolist() == [100] * 3
    expected = (1 - MASK_ALPHA) * 100 + MASK_ALPHA * COLOURS[2]
    assert np.abs(overlay[:, 0, -1].numpy() - expected).max() <= 0.51
    ignored = draw_segments(image, two_halves(600, 800, 255, 0), COLOURS)
    assert ignored[:, 0, 0].tolist() == [round((1 - MASK_ALPHA) * 100 + MASK_ALPHA * 255)] * 3


@pytest.mark.parametrize(("size", "white", "black"), [((512, 512), 1, 1), ((900, 1200), 3, 3), ((1000, 2000), 5, 5)])
def test_outlines_are_white_with_a_black_edge_and_wider_on_larger_images(
    size: tuple[int, int], white: int, black: int
) -> None:
    row = draw_segments(np.full((*size, 3), 100, np.uint8), two_halves(*size), COLOURS)[:, size[0] // 2].numpy()
    whites, blacks = (np.flatnonzero((row == value).all(0)).tolist() for value in (255, 0))
    first = whites[0]
    assert whites == list(range(first, first + white))
    assert abs(first + (white - 1) / 2 - size[1] / 2) <= 1
    assert blacks == [*range(first - black, first), *range(first + white, first + white + black)]


def test_single_segment_has_no_outline() -> None:
    image = np.random.default_rng(0).integers(0, 255, (520, 600, 3)).astype(np.uint8)
    overlay = draw_segments(image, np.zeros((520, 600), np.uint8), COLOURS)
    assert np.array_equal(overlay.permute(1, 2, 0).numpy(), image)


def test_small_images_are_enlarged_by_an_integer_factor() -> None:
    image = np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)
    overlay = draw_segments(image, np.zeros((30, 40), np.uint8), COLOURS)
    assert overlay.shape == (3, 30 * 13, 40 * 13)
    assert np.array_equal(overlay[:, ::13, ::13].permute(1, 2, 0).numpy(), image)


def test_outlines_are_at_least_one_pixel_wide() -> None:
    assert outline_width(3, 5) == 1
