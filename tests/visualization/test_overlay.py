import numpy as np
import pytest

from object_discovery.visualization.overlay import draw_segments, outline_width
from object_discovery.visualization.palette import palette

COLOURS = np.concatenate([palette(255), np.full((1, 3), 255, np.uint8)])


def halves(height: int, width: int, left: int = 1, right: int = 2) -> np.ndarray:  # type: ignore[type-arg]
    labels = np.full((height, width), left, np.uint8)
    labels[:, width // 2 :] = right
    return labels


def test_segments_are_tinted_and_the_background_is_not() -> None:
    image = np.full((600, 800, 3), 100, np.uint8)
    drawn = draw_segments(image, halves(600, 800, 0, 2), COLOURS)
    assert drawn.shape == (3, 600, 800)
    assert drawn[:, 0, 0].tolist() == [100] * 3
    expected = 0.55 * 100 + 0.45 * COLOURS[2]
    assert np.abs(drawn[:, 0, -1].numpy() - expected).max() <= 0.51
    pale = draw_segments(image, halves(600, 800, 255, 0), COLOURS)
    assert pale[:, 0, 0].tolist() == [round(0.55 * 100 + 0.45 * 255)] * 3


@pytest.mark.parametrize(("size", "white", "black"), [((512, 512), 1, 1), ((900, 1200), 3, 3), ((1000, 2000), 5, 5)])
def test_outlines_are_white_with_black_rims_and_grow_with_the_image(
    size: tuple[int, int], white: int, black: int
) -> None:
    row = draw_segments(np.full((*size, 3), 100, np.uint8), halves(*size), COLOURS)[:, size[0] // 2].numpy()
    whites, blacks = (np.flatnonzero((row == value).all(0)).tolist() for value in (255, 0))
    first = whites[0]
    assert whites == list(range(first, first + white))
    assert abs(first + (white - 1) / 2 - size[1] / 2) <= 1
    assert blacks == [*range(first - black, first), *range(first + white, first + white + black)]


def test_one_segment_has_no_outline() -> None:
    image = np.random.default_rng(0).integers(0, 255, (520, 600, 3)).astype(np.uint8)
    drawn = draw_segments(image, np.zeros((520, 600), np.uint8), COLOURS)
    assert np.array_equal(drawn.permute(1, 2, 0).numpy(), image)


def test_small_images_are_enlarged_by_a_whole_number() -> None:
    image = np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)
    drawn = draw_segments(image, np.zeros((30, 40), np.uint8), COLOURS)
    assert drawn.shape == (3, 30 * 13, 40 * 13)
    assert np.array_equal(drawn[:, ::13, ::13].permute(1, 2, 0).numpy(), image)


def test_lines_are_never_nothing() -> None:
    assert outline_width(3, 5) == 1
