"""Frames of bytes in HDF5, cut into deflated strips, so that a part of a frame is read without the rest.

A strip is a chunk of all rows and some columns of a frame. Any HDF5 library reads them; here HDF5's own filter, which
takes twice as long, is gone around.
"""

from __future__ import annotations

from math import gcd, prod
from typing import Any, NamedTuple

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop

_NARROWEST = 32  # columns; each strip has a fixed cost


def deflate(array: NDArray[np.uint8]) -> bytes:
    """Compress an array as HDF5's deflate filter does, at its fastest level.

    Args:
        array: Any array of bytes.

    Returns:
        The ZLIB stream.
    """
    return isal_zlib.compress(np.ascontiguousarray(array), 1)


def strip_width(columns: int, crop: Crop | None) -> int:
    """Return how wide strips are, such that a crop begins and ends between two of them.

    Args:
        columns: Width of the frame.
        crop: The part that is mostly read. None: the frame.

    Returns:
        Columns of a strip; those of the frame, where strips would be very narrow.

    Example:
        >>> strip_width(320, (29, 64, 192, 192)), strip_width(320, (0, 3, 240, 240))
        (64, 320)
    """
    if crop is None:
        return columns
    width = gcd(columns, crop[1], crop[3])
    return width if width >= _NARROWEST else columns


def deflate_strips(frame: NDArray[np.uint8], width: int) -> tuple[bytes, ...]:
    """Compress the strips of a frame `(H, W, ...)`, from left to right.

    Args:
        frame: The frame.
        width: Columns of a strip, a divisor of W.

    Returns:
        A ZLIB stream for each strip.

    Example:
        >>> len(deflate_strips(np.zeros((240, 320, 3), np.uint8), 64))
        5
    """
    return tuple(deflate(frame[:, left : left + width]) for left in range(0, frame.shape[1], width))


class Strips(NamedTuple):
    """An array of frames `(N, H, W, ...)` whose chunks are strips; h5py takes long to tell these."""

    data: Any
    """The array, as h5py's low level knows it."""
    shape: tuple[int, ...]
    """Shape of a strip."""
    columns: int
    """Width of a frame."""

    @classmethod
    def of(cls, data: h5py.Dataset) -> Strips | None:
        """Look an array up; None if HDF5 itself must read it."""
        filters = data.id.get_create_plist()
        deflated = filters.get_nfilters() == 1 and filters.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
        if not deflated or data.dtype != np.uint8 or data.ndim < 3:
            return None
        width = data.chunks[2]
        if data.chunks != (1, data.shape[1], width, *data.shape[3:]) or data.shape[2] % width:
            return None
        return cls(data.id, tuple(data.chunks[1:]), data.shape[2])

    def read(self, index: int, crop: Crop | None = None) -> NDArray[np.uint8]:
        """Read a part of a frame.

        Args:
            index: Number of the frame.
            crop: The part, inside the frame. None: all.

        Returns:
            A copy of the part.

        Raises:
            Exception: One of those of `HDF5_ERRORS`, if the file is damaged.
        """
        rows, width, *rest = self.shape
        top, left, height, columns = crop or (0, 0, rows, self.columns)
        part = np.empty((height, columns, *rest), np.uint8)
        for start in range(left // width * width, left + columns, width):
            first, last = max(start, left), min(start + width, left + columns)
            strip = self._strip((index, 0, start) + (0,) * len(rest))
            part[:, first - left : last - left] = strip[top : top + height, first - start : last - start]
        return part

    def _strip(self, place: tuple[int, ...]) -> NDArray[np.uint8]:
        skipped, stored = self.data.read_direct_chunk(place)
        if not skipped:
            stored = isal_zlib.decompress(stored, 15, prod(self.shape))
        return np.frombuffer(stored, np.uint8).reshape(self.shape)
