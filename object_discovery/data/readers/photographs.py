"""What datasets of photographs share: images of any size that become square, and objects that are counted once."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, central_square, resize_labels
from object_discovery.data.label_maps import count_labels
from object_discovery.data.readers.cache import cached_arrays
from object_discovery.data.readers.source import SceneSource
from object_discovery.errors import CorruptFileError

Fit = Literal["crop", "squash"]
"""How an image becomes square: by its central square, or whole and squashed."""


def check_size(path: Path, shape: tuple[int, ...], expected: tuple[int, int], what: str) -> None:
    """Refuse a file whose image is not as large as another says.

    Args:
        path: The file.
        shape: Shape of what it holds, `(H, W, ...)`.
        expected: Height and width that it should have.
        what: Where these come from, such as `its image`.

    Raises:
        CorruptFileError: If they differ.

    Example:
        >>> check_size(Path("mask.png"), (4, 5), (4, 6), "its image")
        Traceback (most recent call last):
        object_discovery.errors.CorruptFileError: mask.png: expected 4 x 6 pixels, as its image has, but got 4 x 5
    """
    if shape[:2] != expected:
        (height, width), (rows, columns) = expected, shape[:2]
        raise CorruptFileError(f"{path}: expected {height} x {width} pixels, as {what} has, but got {rows} x {columns}")


def file_states(paths: Iterable[Path]) -> list[tuple[str, int, int] | str]:
    """Return the state of files, to detect changes: their names, sizes and times of change."""
    states: list[tuple[str, int, int] | str] = []
    for path in paths:
        try:
            found = os.stat(path)
            states.append((str(path), found.st_size, found.st_mtime_ns))
        except OSError:
            states.append(str(path))
    return states


class PhotographSource(SceneSource):
    """Photographs of any size, made square here, so that there is no other crop.

    Args:
        fit: How they become square. None: by their central square.
    """

    layout = "image files"

    def __init__(self, fit: Fit | None) -> None:
        self.fit: Fit = fit or "crop"

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read a photograph: colours `(S, S, 3)`, or `(H, W, 3)` if it is to be squashed."""
        return self._fitted(self._image(index))

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a photograph, of the size of its image."""
        return {key: self._fitted(values) for key, values in self._maps(index).items()}

    def maps_at(self, index: int, size: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a photograph as published protocols score them, `(size, size)` each.

        Maps are resized to the nearest pixel so that their short side has the size, then the central square is cut
        out; or squashed. Crowds are left out: their pixels are background, or the object that lies there.
        """
        return {key: self._sized(values, size) for key, values in self._scored_maps(index).items()}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every photograph that are left in the square, `(N,)`; counted once and kept."""
        if crop is not None:
            return super().object_counts(crop)
        path, state = self._counted()
        return np.array(cached_arrays(path, "counts", (self.fit, state), lambda: {"counts": self._count()})["counts"])

    def _count(self) -> NDArray[np.int64]:
        """Count the objects that are left of every photograph; several are read at a time."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            counts = pool.map(lambda index: count_labels(self._fitted(self._instances(index))), range(len(self)))
            return np.array(list(counts), np.int64)

    def _instances(self, index: int) -> NDArray[np.uint8]:
        """Read the label map `mask` of a whole photograph."""
        return self._maps(index)["mask"]

    def _fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return central_square(pixels) if self.fit == "crop" else pixels

    def _sized(self, labels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        height, width = labels.shape
        if self.fit == "squash":
            return resize_labels(labels, (size, size))
        short = min(height, width)
        resized = resize_labels(labels, (height * size // short, width * size // short))
        top, left = (round((side - size) / 2) for side in resized.shape)
        return np.ascontiguousarray(resized[top : top + size, left : left + size])

    def _scored_maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a whole photograph without its crowds."""
        return self._maps(index)

    @abstractmethod
    def _image(self, index: int) -> NDArray[np.uint8]:
        """Read a whole photograph, `(H, W, 3)`."""

    @abstractmethod
    def _maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a whole photograph, `(H, W)` each."""

    @abstractmethod
    def _counted(self) -> tuple[Path, object]:
        """Return the file or folder that the label maps come from, and what else they depend on."""
