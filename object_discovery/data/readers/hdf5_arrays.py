"""Row-wise reading of HDF5 datasets in any number of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, crop_array
from object_discovery.data.readers.deflate import inflate_chunk, is_deflated
from object_discovery.data.readers.hdf5_errors import HDF5_ERRORS, hdf5_errors, open_hdf5
from object_discovery.errors import CorruptFileError


class RowSpec(NamedTuple):
    """Required type and shape of the rows of an array."""

    dtype: type[Any]
    """NumPy scalar type or abstract type, such as `np.uint8` or `np.integer`."""
    shape: tuple[int | None, ...] = ()
    """Shape of a row; None: any length."""

    def __str__(self) -> str:
        lengths = ("N", *("any" if length is None else str(length) for length in self.shape))
        return f"{self.dtype.__name__} ({', '.join(lengths)})"

    def matches(self, array: h5py.Dataset) -> bool:
        """Return whether the rows of an array have this type and shape."""
        same = all(length in (None, actual) for length, actual in zip(self.shape, array.shape[1:], strict=False))
        return bool(same and array.ndim == 1 + len(self.shape) and np.issubdtype(array.dtype, self.dtype))


class _Array(NamedTuple):
    """Dataset of an open file and its properties, which h5py looks up slowly."""

    data: h5py.Dataset
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    is_deflated: bool
    """Whether deflate is the only filter, so that chunks can be decompressed without HDF5."""

    @classmethod
    def from_dataset(cls, data: h5py.Dataset) -> _Array:
        return cls(data, data.shape, data.dtype, data.chunks, is_deflated(data))


class ArrayFile:
    """HDF5 file of arrays with N rows each, opened lazily in each process, so that it can be pickled and forked.

    Args:
        path: The file.
        content: Expected content in a few words, for messages.
        arrays: Required arrays by name.

    Raises:
        DatasetNotFoundError: On first use, if the file does not exist or is not readable.
        CorruptFileError: On first use, if the file is damaged, or an array is missing or does not match.

    Example:
        >>> ArrayFile("3dshapes.h5", "3D Shapes", {"images": RowSpec(np.uint8, (64, 64, 3))}).length("images")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: 3dshapes.h5
    """

    def __init__(self, path: str | os.PathLike[str], content: str, arrays: dict[str, RowSpec]) -> None:
        self.path = Path(path)
        self.content = content
        self.arrays = arrays
        self._opened: tuple[int, h5py.File, dict[str, _Array]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def length(self, name: str) -> int:
        """Return the number of rows of an array."""
        return self._array(name).shape[0]

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a row of an array."""
        return self._array(name).shape[1:]

    def rows_per_chunk(self, name: str) -> int:
        """Return how many rows are decompressed to read one, at least 1."""
        return (self._array(name).chunks or (1,))[0]

    def row(self, name: str, index: int, crop: Crop | None = None) -> NDArray[Any]:
        """Read one row of an array, or a crop of it.

        Args:
            name: Name of the array.
            index: Index of the row.
            crop: Crop of a row `(H, W, ...)`. None: the whole row.

        Returns:
            The row, of the array's type. Its memory layout depends on the chunks.

        Raises:
            IndexError: If the index is out of range.
            CorruptFileError: If the row cannot be read.
        """
        array = self._array(name)
        index = range(array.shape[0])[index]
        with hdf5_errors(self.path, f"cannot read `{name}` of row {index}"):
            single = array.is_deflated and array.chunks is not None and array.chunks[0] == 1
            row = _inflate_row(array, index, crop) if single else None
            return crop_array(np.asarray(array.data[index]), crop) if row is None else row

    def blocks(self, name: str, max_rows: int = 64) -> Iterator[NDArray[Any]]:
        """Read a whole array in blocks; each chunk is decompressed once.

        Args:
            name: Name of the array.
            max_rows: Maximum number of rows of a block.

        Yields:
            Consecutive rows, `(rows, ...)`.

        Raises:
            CorruptFileError: If the array cannot be read.
        """
        array = self._array(name)
        step = array.chunks[0] if array.chunks else max_rows
        for start in range(0, array.shape[0], step):
            with hdf5_errors(self.path, f"cannot read `{name}` of the rows from {start} on"):
                yield from _read_blocks(array, start, min(array.shape[0], start + step), max_rows)

    def _array(self, name: str) -> _Array:
        if self._opened is None or self._opened[0] != os.getpid():
            self.close()
            self._opened = os.getpid(), *self._open()
        return self._opened[2][name]

    def _open(self) -> tuple[h5py.File, dict[str, _Array]]:
        file = open_hdf5(self.path, self.content)
        try:
            with hdf5_errors(self.path, "damaged"):
                return file, {name: self._find_array(file, name) for name in self.arrays}
        except CorruptFileError:
            file.close()
            raise

    def _find_array(self, file: h5py.File, name: str) -> _Array:
        array, spec = file.get(name), self.arrays[name]
        if not isinstance(array, h5py.Dataset):
            got = f"it has no dataset `{name}`"
        elif not spec.matches(array):
            got = f"it is {array.dtype} {array.shape}"
        else:
            return _Array.from_dataset(array)
        raise CorruptFileError(f"{self.path}: expected {self.content} with `{name}` as {spec}, but {got}")


def _inflate_row(array: _Array, index: int, crop: Crop | None) -> NDArray[Any] | None:
    """Decompress the chunks of one row that a crop overlaps.

    Axes with chunks of length 1 become the outermost in memory, so that each chunk is contiguous.

    Returns:
        The crop; None if HDF5 must read it: a chunk was never written, or is damaged and HDF5's error says how.
    """
    shape, chunk = array.shape[1:], (array.chunks or ())[1:]
    low, high = [0] * len(shape), list(shape)
    if crop is not None:
        low[:2], high[:2] = crop[:2], (crop[0] + crop[2], crop[1] + crop[3])
    order = sorted(range(len(shape)), key=lambda axis: chunk[axis] > 1)
    row: NDArray[Any] = np.empty([high[axis] - low[axis] for axis in order], array.dtype).transpose(np.argsort(order))
    grid = (range(start // step * step, stop, step) for start, stop, step in zip(low, high, chunk, strict=True))
    try:
        for corner in product(*grid):
            block = inflate_chunk(array.data.id, (index, *corner), (1, *chunk), array.dtype)[0]
            source, target = [], []
            for start, stop, offset, length in zip(low, high, corner, chunk, strict=True):
                first, last = max(start, offset), min(stop, offset + length)
                source.append(slice(first - offset, last - offset))
                target.append(slice(first - start, last - start))
            row[tuple(target)] = block[tuple(source)]
    except HDF5_ERRORS:
        return None
    return row


def _read_blocks(array: _Array, start: int, stop: int, max_rows: int) -> Iterator[NDArray[Any]]:
    """Read rows in blocks; of a chunked array, rows that share chunks."""
    grid = _inflate_chunks(array, start) if array.is_deflated else None
    if grid is None:
        for first in range(start, stop, max_rows):
            yield np.asarray(array.data[first : min(first + max_rows, stop)])
        return
    axes = len(array.shape) - 1
    order = (axes, *(axis for i in range(axes) for axis in (i, axes + 1 + i)))
    size = [count * length for count, length in zip(grid.shape[:axes], grid.shape[axes + 1 :], strict=True)]
    inside = (slice(None), *(slice(length) for length in array.shape[1:]))
    for first in range(0, stop - start, max_rows):
        block = grid[(slice(None),) * axes + (slice(first, min(first + max_rows, stop - start)),)]
        yield block.transpose(order).reshape(-1, *size)[inside]


def _inflate_chunks(array: _Array, start: int) -> NDArray[Any] | None:
    """Decompress all chunks whose first row is `start`.

    Returns:
        The chunks, `(grid of chunks, chunk)`; None if HDF5 must read them, see `_inflate_row`.
    """
    chunk = array.chunks or ()
    counts = [ceil(length / size) for length, size in zip(array.shape[1:], chunk[1:], strict=True)]
    grid = np.empty((*counts, *chunk), array.dtype)
    try:
        for position in product(*map(range, counts)):
            offset = (start, *(i * length for i, length in zip(position, chunk[1:], strict=True)))
            grid[position] = inflate_chunk(array.data.id, offset, chunk, array.dtype)
    except HDF5_ERRORS:
        return None
    return grid
