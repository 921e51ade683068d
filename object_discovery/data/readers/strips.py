"""Images in HDF5, chunked into vertical strips, so that a crop is read without decompressing the rest.

A strip is a chunk of all rows and some columns of one image. Any HDF5 library can read the files.
"""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop
from object_discovery.data.readers.deflate import deflate, inflate_chunk, is_deflated

_MIN_WIDTH = 32  # columns; reading a strip has a constant overhead


def strip_width(columns: int, crop: Crop | None) -> int:
    """Return the width of strips that a crop consists of.

    Args:
        columns: Width of the image.
        crop: The crop that is usually read. None: the whole image.

    Returns:
        Columns of a strip; `columns` where strips would be narrower than 32.

    Example:
        >>> strip_width(320, (29, 64, 192, 192)), strip_width(320, (0, 3, 240, 240))
        (64, 320)
    """
    if crop is None:
        return columns
    width = gcd(columns, crop[1], crop[3])
    return width if width >= _MIN_WIDTH else columns


def deflate_strips(image: NDArray[np.uint8], width: int) -> tuple[bytes, ...]:
    """Compress the strips of an image.

    Args:
        image: The image, `(H, W, ...)`.
        width: Columns of a strip, a divisor of W.

    Returns:
        A zlib stream for each strip, from left to right.

    Example:
        >>> len(deflate_strips(np.zeros((240, 320, 3), np.uint8), 64))
        5
    """
    return tuple(deflate(image[:, left : left + width]) for left in range(0, image.shape[1], width))


class Strips(NamedTuple):
    """Dataset of images `(N, H, W, ...)` whose chunks are strips, and its properties, which h5py looks up slowly."""

    data: Any
    """Low-level identifier of the dataset."""
    shape: tuple[int, ...]
    """Shape of a strip, `(H, width, ...)`."""
    columns: int
    """Width W of an image."""

    @classmethod
    def from_dataset(cls, data: h5py.Dataset) -> Strips | None:
        """Return the strips of a dataset; None if it has other chunks, type or filters, so that HDF5 must read it."""
        if not is_deflated(data) or data.dtype != np.uint8 or data.ndim < 3:
            return None
        width = data.chunks[2]
        if data.chunks != (1, data.shape[1], width, *data.shape[3:]) or data.shape[2] % width:
            return None
        return cls(data.id, tuple(data.chunks[1:]), data.shape[2])

    def read(self, index: int, crop: Crop | None = None) -> NDArray[np.uint8]:
        """Read an image or a crop of it.

        Args:
            index: Index of the image.
            crop: Crop inside the image. None: the whole image.

        Returns:
            A new, writable array `(h, w, ...)`.

        Raises:
            Exception: One of `HDF5_ERRORS`, if the file is damaged.
        """
        rows, width, *channels = self.shape
        top, left, height, columns = crop or (0, 0, rows, self.columns)
        image = np.empty((height, columns, *channels), np.uint8)
        for start in range(left // width * width, left + columns, width):
            first, last = max(start, left), min(start + width, left + columns)
            strip = self._strip((index, 0, start) + (0,) * len(channels))
            image[:, first - left : last - left] = strip[top : top + height, first - start : last - start]
        return image

    def _strip(self, offset: tuple[int, ...]) -> NDArray[np.uint8]:
        strip: NDArray[np.uint8] = inflate_chunk(self.data, offset, (1, *self.shape), np.uint8)[0]
        return strip
