"""Photographs are cropped to squares, and their objects are counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from object_discovery.data.geometry import central_square
from object_discovery.data.readers.photographs import PhotographSource, check_size, file_states
from object_discovery.errors import CorruptFileError


class Source(PhotographSource):
    """One photograph of 4 x 7 pixels with one object per column, except the first."""

    def __init__(self, path: Path) -> None:
        super().__init__(None)
        self.path = path
        self.reads = 0

    def __len__(self) -> int:
        return 1

    def _image(self, index: int) -> NDArray[np.uint8]:
        return np.arange(84, dtype=np.uint8).reshape(4, 7, 3)

    def _maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        self.reads += 1
        return {"mask": np.tile(np.arange(7, dtype=np.uint8), (4, 1))}

    def _counts_source(self) -> tuple[Path, object]:
        return self.path, None


@pytest.mark.parametrize(("shape", "square"), [((4, 7), (0, 1, 4)), ((8, 4), (2, 0, 4)), ((5, 5), (0, 0, 5))])
def test_central_square(shape: tuple[int, int], square: tuple[int, int, int]) -> None:
    pixels = np.arange(shape[0] * shape[1] * 3).reshape(*shape, 3)
    top, left, side = square
    np.testing.assert_array_equal(central_square(pixels), pixels[top : top + side, left : left + side])


def test_images_and_label_maps_are_cropped_unless_squashed(tmp_path: Path) -> None:
    source = Source(tmp_path)
    assert source.image(0)[0, :, 0].tolist() == [3, 6, 9, 12]
    assert source.maps(0)["mask"][0].tolist() == [1, 2, 3, 4]
    source.fit = "squash"
    assert source.image(0).shape == (4, 7, 3)


def test_object_counts_are_cached_for_each_fit(tmp_path: Path) -> None:
    path = tmp_path / "masks"
    path.mkdir()
    first, second = Source(path), Source(path)
    assert first.object_counts().tolist() == first.object_counts().tolist() == [4]
    assert second.object_counts().tolist() == [4]
    assert (first.reads, second.reads) == (1, 0)
    assert second.object_counts((0, 0, 4, 2)).tolist() == [2]
    second.fit = "squash"
    assert second.object_counts().tolist() == [6]


def test_different_sizes_are_refused(tmp_path: Path) -> None:
    check_size(tmp_path, (4, 5, 3), (4, 5), "its image")
    with pytest.raises(CorruptFileError, match=r"expected 5 x 4 pixels, as its image has, but got 4 x 5"):
        check_size(tmp_path, (4, 5, 3), (5, 4), "its image")


def test_file_states_differ_for_changed_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    states = [file_states([path])]
    for content in ("", "1"):
        path.write_text(content)
        states.append(file_states([path]))
    assert states[0] != states[1] != states[2]
    assert file_states([path]) == states[2]
