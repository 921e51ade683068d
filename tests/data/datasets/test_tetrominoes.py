import zlib

import numpy as np
import numpy.typing as npt
import pytest

from object_discovery.data.datasets.tetrominoes import (
    COLOURS,
    ORIENTATIONS,
    _overlapping,
    _sample_cells,
    generate_tetrominoes,
)

Cells = frozenset[tuple[int, int]]


def at_origin(cells: Cells) -> Cells:
    top, left = min(row for row, _ in cells), min(column for _, column in cells)
    return frozenset((row - top, column - left) for row, column in cells)


def fixed_tetrominoes() -> set[Cells]:
    """Enumerate the 19 fixed tetrominoes by adding cells one by one."""
    grown: set[Cells] = {frozenset({(0, 0)})}
    for _ in range(3):
        grown = {
            at_origin(cells | {(row + dy, column + dx)})
            for cells in grown
            for row, column in cells
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if (row + dy, column + dx) not in cells
        }
    return grown


def piece_cells(mask: npt.NDArray[np.bool_]) -> Cells:
    """Return the cells of a piece from its mask, which must consist of blocks of 5 x 5 pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bounding_box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert all(side % 5 == 0 for side in bounding_box.shape)
    cells = bounding_box[::5, ::5]
    np.testing.assert_array_equal(bounding_box, cells.repeat(5, 0).repeat(5, 1))
    return frozenset((int(row), int(column)) for row, column in np.argwhere(cells))


def test_orientations_are_the_fixed_tetrominoes() -> None:
    expected = fixed_tetrominoes()
    assert len(expected) == 19
    assert {frozenset(map(tuple, cells)) for cells in ORIENTATIONS.tolist()} == expected


def test_scenes_have_three_unoccluded_pieces() -> None:
    _, masks = generate_tetrominoes(np.arange(200))
    # each piece is complete, so none is occluded
    actual = {piece_cells(mask == label) for mask in masks for label in (1, 2, 3)}
    assert actual == fixed_tetrominoes()
    assert set(np.unique(masks)) == {0, 1, 2, 3}


def test_pieces_have_one_of_six_colours_on_black() -> None:
    images, masks = generate_tetrominoes(np.arange(100))
    assert not images[masks == 0].any()
    actual = set()
    for image, mask in zip(images, masks, strict=True):
        for label in (1, 2, 3):
            colours = np.unique(image[mask == label], axis=0)
            assert len(colours) == 1
            actual.add(tuple(colours[0].tolist()))
    assert actual == set(COLOURS.values())


def test_pieces_cover_every_pixel() -> None:
    _, masks = generate_tetrominoes(np.arange(1000))
    assert (masks > 0).any(0).all()


def test_scenes_depend_on_index_and_seed_only() -> None:
    images, masks = generate_tetrominoes(np.arange(64), seed=3)
    subset, subset_masks = generate_tetrominoes([40, 7], seed=3)
    np.testing.assert_array_equal(subset, images[[40, 7]])
    np.testing.assert_array_equal(subset_masks, masks[[40, 7]])
    assert (generate_tetrominoes(np.arange(64), seed=4)[1] != masks).any((1, 2)).all()


def test_checksums_of_scenes() -> None:
    images, masks = generate_tetrominoes(np.arange(16), seed=1)
    assert (zlib.crc32(images.tobytes()), zlib.crc32(masks.tobytes())) == (2578756141, 1346468080)


def test_overlap_is_detected() -> None:
    disjoint = 5 * ORIENTATIONS[[0, 0, 0]] + np.array([[[0, 0]], [[5, 0]], [[10, 0]]])
    overlapping = disjoint - np.array([[[0, 0]], [[1, 0]], [[0, 0]]])
    assert _overlapping(np.stack([disjoint, overlapping])).tolist() == [False, True]


@pytest.mark.parametrize("rounds", [0, 1])
def test_sampled_pieces_do_not_overlap(rounds: int) -> None:
    cells = _sample_cells(np.arange(50), seed=0, rounds=rounds)
    assert not _overlapping(cells).any()
    assert np.min(cells) >= 0
    assert np.max(cells) <= 30
