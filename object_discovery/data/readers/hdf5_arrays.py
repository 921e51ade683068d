"""Arrays of an HDF5 file, read a row at a time, by any number of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, cut
from object_discovery.data.readers.hdf5_errors import HDF5_ERRORS, hdf5_errors, open_hdf5
from object_discovery.errors import CorruptFileError


class Rows(NamedTuple):
    """What the rows of an array must be."""

    kind: type[Any]
    """Type of the numbers, such as `np.uint8` or `np.integer`."""
    shape: tuple[int | None, ...] = ()
    """Shape of a row; None: any length."""

    def __str__(self) -> str:
        lengths = ("N", *("any" if length is None else str(length) for length in self.shape))
        return f"{self.kind.__name__} ({', '.join(lengths)})"

    def fit(self, array: h5py.Dataset) -> bool:
        """Return whether an array has such rows."""
        same = all(wanted in (None, got) for wanted, got in zip(self.shape, array.shape[1:], strict=False))
        return bool(same and array.ndim == 1 + len(self.shape) and np.issubdtype(array.dtype, self.kind))


class _Array(NamedTuple):
    """An array of an open file; h5py takes long to tell these."""

    data: h5py.Dataset
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    deflated: bool

    @classmethod
    def of(cls, data: h5py.Dataset) -> _Array:
        """Look an array up."""
        filters = data.id.get_create_plist()
        deflated = filters.get_nfilters() == 1 and filters.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
        return cls(data, data.shape, data.dtype, data.chunks, bool(data.chunks and deflated))


class ArrayFile:
    """Some arrays of an HDF5 file; opened when first needed, again in each process, so it can be pickled and forked.

    Args:
        path: The file.
        content: What the file should hold, in a few words for the user.
        arrays: The arrays it must have, by name.

    Raises:
        DatasetNotFoundError: On first use, if there is no such file, or it may not be read.
        CorruptFileError: On first use, if the file is damaged or of another kind.

    Example:
        >>> ArrayFile("3dshapes.h5", "3D Shapes", {"images": Rows(np.uint8, (64, 64, 3))}).length("images")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: 3dshapes.h5
    """

    def __init__(self, path: str | os.PathLike[str], content: str, arrays: dict[str, Rows]) -> None:
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
        """Read one row of an array, or a part of it.

        Args:
            name: Name of the array.
            index: Number of the row.
            crop: The part, of rows `(H, W, ...)`. None: all.

        Returns:
            The row, with the array's type; how it lies in memory follows the chunks.

        Raises:
            IndexError: If there is no such row.
            CorruptFileError: If it cannot be read.
        """
        array = self._array(name)
        index = range(array.shape[0])[index]
        with hdf5_errors(self.path, f"cannot read `{name}` of row {index}"):
            row = _row(array, index, crop) if array.deflated and array.chunks and array.chunks[0] == 1 else None
            return cut(np.asarray(array.data[index]), crop) if row is None else row

    def blocks(self, name: str, rows: int = 64) -> Iterator[NDArray[Any]]:
        """Read a whole array, decompressing every chunk once.

        Args:
            name: Name of the array.
            rows: Largest number of rows in a block.

        Yields:
            Rows in order, `(rows, ...)`.

        Raises:
            CorruptFileError: If they cannot be read.
        """
        array = self._array(name)
        step = array.chunks[0] if array.chunks else rows
        for start in range(0, array.shape[0], step):
            with hdf5_errors(self.path, f"cannot read `{name}` of the rows from {start} on"):
                yield from _pieces(array, start, rows)

    def _array(self, name: str) -> _Array:
        if self._opened is None or self._opened[0] != os.getpid():
            self.close()
            self._opened = os.getpid(), *self._open()
        return self._opened[2][name]

    def _open(self) -> tuple[h5py.File, dict[str, _Array]]:
        file = open_hdf5(self.path, self.content)
        try:
            with hdf5_errors(self.path, "damaged"):
                return file, {name: self._checked(file, name) for name in self.arrays}
        except CorruptFileError:
            file.close()
            raise

    def _checked(self, file: h5py.File, name: str) -> _Array:
        array, wanted = file.get(name), self.arrays[name]
        if not isinstance(array, h5py.Dataset):
            got = f"it has no dataset `{name}`"
        elif not wanted.fit(array):
            got = f"it is {array.dtype} {array.shape}"
        else:
            return _Array.of(array)
        raise CorruptFileError(f"{self.path}: expected {self.content} with `{name}` as {wanted}, but {got}")


def _row(array: _Array, index: int, crop: Crop | None) -> NDArray[Any] | None:
    """Decompress the chunks that a part of a row touches, with the axes outside that they cut into single places.

    None: HDF5 itself must do it.
    """
    lengths, chunk = array.shape[1:], (array.chunks or ())[1:]
    low, high = [0] * len(lengths), list(lengths)
    if crop is not None:
        low[:2], high[:2] = crop[:2], (crop[0] + crop[2], crop[1] + crop[3])
    outer = sorted(range(len(lengths)), key=lambda axis: chunk[axis] > 1)
    part: NDArray[Any] = np.empty([high[axis] - low[axis] for axis in outer], array.dtype).transpose(np.argsort(outer))
    size = prod(chunk) * array.dtype.itemsize
    starts = (range(a // step * step, b, step) for a, b, step in zip(low, high, chunk, strict=True))
    try:
        for place in product(*starts):
            skipped, data = array.data.id.read_direct_chunk((index, *place))
            block = np.frombuffer(data if skipped else isal_zlib.decompress(data, 15, size), array.dtype).reshape(chunk)
            ends = [(max(a, p), min(b, p + n)) for a, b, p, n in zip(low, high, place, chunk, strict=True)]
            there = tuple(slice(a - start, b - start) for (a, b), start in zip(ends, low, strict=True))
            part[there] = block[tuple(slice(a - p, b - p) for (a, b), p in zip(ends, place, strict=True))]
    except HDF5_ERRORS:  # a chunk that was never written, or a damaged one, for which HDF5 gives the reason
        return None
    return part


def _pieces(array: _Array, start: int, rows: int) -> Iterator[NDArray[Any]]:
    """Read the rows of the chunks that begin at row `start`, or `rows` of them in an array without chunks."""
    stop = min(array.shape[0], start + (array.chunks[0] if array.chunks else rows))
    grid = _grid(array, start) if array.deflated else None
    if grid is None:
        for first in range(start, stop, rows):
            yield np.asarray(array.data[first : min(first + rows, stop)])
        return
    axes = len(array.shape) - 1
    order = (axes, *(axis for i in range(axes) for axis in (i, axes + 1 + i)))
    size = [count * length for count, length in zip(grid.shape[:axes], grid.shape[axes + 1 :], strict=True)]
    inside = (slice(None), *(slice(length) for length in array.shape[1:]))
    for first in range(0, stop - start, rows):
        part = grid[(slice(None),) * axes + (slice(first, min(first + rows, stop - start)),)]
        yield part.transpose(order).reshape(-1, *size)[inside]


def _grid(array: _Array, start: int) -> NDArray[Any] | None:
    """Decompress the chunks that begin at row `start`, each at its place in a grid; None: HDF5 itself must do it."""
    chunk = array.chunks or ()
    counts = [ceil(length / size) for length, size in zip(array.shape[1:], chunk[1:], strict=True)]
    grid = np.empty((*counts, *chunk), array.dtype)
    size = prod(chunk) * array.dtype.itemsize
    try:
        for place in product(*map(range, counts)):
            offset = (start, *(i * length for i, length in zip(place, chunk[1:], strict=True)))
            skipped, data = array.data.id.read_direct_chunk(offset)
            if not skipped:
                data = isal_zlib.decompress(data, 15, size)
            grid[place] = np.frombuffer(data, array.dtype).reshape(chunk)
    except HDF5_ERRORS:  # a chunk that was never written, or a damaged one, for which HDF5 gives the reason
        return None
    return grid
