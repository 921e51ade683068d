"""Base class of photograph datasets: images of any size, cropped or squashed to squares, and cached object counts."""

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
"""How an image becomes square: `crop` its central square, or `squash` the whole image."""


def check_size(path: Path, shape: tuple[int, ...], expected: tuple[int, int], reference: str) -> None:
    """Check that an image or label map has the expected size.

    Args:
        path: The file.
        shape: Shape of its array, `(H, W, ...)`.
        expected: Expected height and width.
        reference: What has the expected size, such as `its image`; for the message.

    Raises:
        CorruptFileError: If the sizes differ.

    Example:
        >>> check_size(Path("mask.png"), (4, 5), (4, 6), "its image")
        Traceback (most recent call last):
        object_discovery.errors.CorruptFileError: mask.png: expected 4 x 6 pixels, as its image has, but got 4 x 5
    """
    if shape[:2] != expected:
        (height, width), (rows, columns) = expected, shape[:2]
        raise CorruptFileError(
            f"{path}: expected {height} x {width} pixels, as {reference} has, but got {rows} x {columns}"
        )


def file_states(paths: Iterable[Path]) -> list[tuple[str, int, int] | str]:
    """Return the path, size and modification time in nanoseconds of each file; of missing files only the path."""
    states: list[tuple[str, int, int] | str] = []
    for path in paths:
        try:
            stat = os.stat(path)
            states.append((str(path), stat.st_size, stat.st_mtime_ns))
        except OSError:
            states.append(str(path))
    return states


class PhotographSource(SceneSource):
    """Photographs of any size, cropped to squares by the source itself.

    Args:
        fit: How images become square. None: `crop`.
    """

    layout = "image files"

    def __init__(self, fit: Fit | None) -> None:
        self.fit: Fit = fit or "crop"

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read a photograph: RGB `(S, S, 3)` with `fit` crop, `(H, W, 3)` with `fit` squash."""
        return self._fitted(self._image(index))

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a photograph, cropped like its image."""
        return {key: self._fitted(values) for key, values in self._maps(index).items()}

    def evaluation_maps(self, index: int, size: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a photograph as the published evaluation protocols use them.

        The short side is resized to `size` by nearest-neighbour interpolation, then the centre is cropped; with `fit`
        squash both sides are resized. Crowd regions are dropped: their pixels are background, or the object there.

        Args:
            index: Index of the photograph.
            size: Height and width of the result.

        Returns:
            Label maps by name, uint8 `(size, size)`.
        """
        return {key: self._resized(values, size) for key, values in self._maps_without_crowds(index).items()}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every photograph after the crop, `(N,)`; the counts are cached."""
        if crop is not None:
            return super().object_counts(crop)
        path, state = self._counts_source()
        key = (self.fit, state)
        return np.array(cached_arrays(path, "counts", key, lambda: {"counts": self._count_objects()})["counts"])

    def _count_objects(self) -> NDArray[np.int64]:
        """Count the objects of every photograph after the crop, in parallel threads."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            counts = pool.map(lambda index: count_labels(self._fitted(self._instances(index))), range(len(self)))
            return np.array(list(counts), np.int64)

    def _instances(self, index: int) -> NDArray[np.uint8]:
        """Read the uncropped label map `mask` of a photograph."""
        return self._maps(index)["mask"]

    def _fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return central_square(pixels) if self.fit == "crop" else pixels

    def _resized(self, labels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        height, width = labels.shape
        if self.fit == "squash":
            return resize_labels(labels, (size, size))
        short = min(height, width)
        resized = resize_labels(labels, (height * size // short, width * size // short))
        top, left = (round((side - size) / 2) for side in resized.shape)
        return np.ascontiguousarray(resized[top : top + size, left : left + size])

    def _maps_without_crowds(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the uncropped label maps of a photograph without crowd regions; by default, all label maps."""
        return self._maps(index)

    @abstractmethod
    def _image(self, index: int) -> NDArray[np.uint8]:
        """Read an uncropped photograph, RGB `(H, W, 3)`."""

    @abstractmethod
    def _maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the uncropped label maps of a photograph, `(H, W)` each."""

    @abstractmethod
    def _counts_source(self) -> tuple[Path, object]:
        """Return the file or folder that the object counts are computed from, and what else they depend on."""
