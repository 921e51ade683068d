"""Keep what takes long to find out about files: beside them, or in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Arrays by name."""


def cached_arrays(path: Path, kind: str, state: object, make: Callable[[], Arrays]) -> Arrays:
    """Return arrays that depend on a file or folder, made once and mapped into memory from then on.

    They are kept beside `path` or, where that cannot be written, in the user's cache folder, under a name that holds
    all they depend on. A cache appears when it is whole, so that a killed process or a second one does no harm; a
    damaged one is made again.

    Args:
        path: What the arrays depend on: its place, size and time of change.
        kind: What they are, in a word that becomes part of the name.
        state: What else they depend on; anything whose `repr` says it all.
        make: Makes the arrays.

    Returns:
        The arrays, read-only where they are mapped.
    """
    caches = _cache_files(path, kind, state)
    for cache in caches:
        with suppress(OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError):
            return _load(cache)
    arrays = make()
    for cache in caches:
        with suppress(OSError):
            _save(cache, arrays)
            return _load(cache)
    return arrays


def _cache_files(path: Path, kind: str, state: object) -> list[Path]:
    """Return where the arrays may be kept, best first."""
    path = path.resolve()
    found = path.stat()
    key = hashlib.sha256(repr((str(path), found.st_size, found.st_mtime_ns, state)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "object_discovery"
    return [place / f"{path.name}.{key}.{kind}.h5" for place in (path.parent, folder)]


def _save(cache: Path, arrays: Arrays) -> None:
    beside = cache.with_name(f".{cache.name}.{os.getpid()}")
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        with h5py.File(beside, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
        os.replace(beside, cache)
    finally:
        beside.unlink(missing_ok=True)


def _load(cache: Path) -> Arrays:
    with h5py.File(cache, "r") as file:
        return {name: _mapped(cache, data) for name, data in file.items()}


def _mapped(cache: Path, data: h5py.Dataset) -> NDArray[Any]:
    """Map a dataset that is stored in one piece; one without values has no place in the file."""
    if data.size == 0:
        return np.zeros(data.shape, data.dtype)
    mapped: NDArray[Any] = np.memmap(cache, data.dtype, "r", data.id.get_offset(), data.shape)
    return mapped
