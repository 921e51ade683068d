"""Compression and decompression of HDF5 chunks by ISA-L, about twice as fast as HDF5's own deflate filter."""

from __future__ import annotations

from math import prod
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import DTypeLike, NDArray


def deflate(array: NDArray[np.uint8]) -> bytes:
    """Compress an array like HDF5's deflate filter at its fastest level.

    Args:
        array: Any array of bytes.

    Returns:
        The zlib stream.
    """
    return isal_zlib.compress(np.ascontiguousarray(array), 1)


def is_deflated(data: h5py.Dataset) -> bool:
    """Return whether deflate is the only filter of a chunked dataset."""
    filters = data.id.get_create_plist()
    only_filter = filters.get_filter(0)[0] if filters.get_nfilters() == 1 else None
    return bool(data.chunks) and only_filter == h5py.h5z.FILTER_DEFLATE


def inflate_chunk(data: Any, offset: tuple[int, ...], shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Read and decompress one chunk of a dataset.

    Args:
        data: Low-level identifier of a dataset for which `is_deflated` is true, `h5py.h5d.DatasetID`.
        offset: Indices of the chunk's first element.
        shape: Shape of a chunk.
        dtype: Type of the dataset.

    Returns:
        The chunk, read-only.

    Raises:
        Exception: One of `HDF5_ERRORS`, if the chunk was never written or is damaged.
    """
    filter_mask, stored = data.read_direct_chunk(offset)
    if not filter_mask:  # otherwise HDF5 has skipped the filter for this chunk
        stored = isal_zlib.decompress(stored, 15, prod(shape) * np.dtype(dtype).itemsize)
    return np.frombuffer(stored, dtype).reshape(shape)
