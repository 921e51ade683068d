"""On-disk cache of results computed from data files, such as object counts.

A cache file lies next to its source or, where that folder is not writable, in `$XDG_CACHE_HOME/object_discovery`
(`~/.cache/object_discovery`). It is written atomically under a lock: a killed process leaves no partial file, and of
several processes one computes the result while the others wait. Damaged cache files are computed again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from object_discovery.data.readers.hdf5_errors import HDF5_ERRORS
from object_discovery.files import atomic_write, file_lock

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Arrays by name, of numbers or bytes."""
_LOG_AFTER = 3.0  # seconds


def cached_arrays(path: Path, kind: str, state: object, compute: Callable[[], Arrays]) -> Arrays:
    """Return arrays computed from a file or folder; later calls memory-map them from the cache.

    Args:
        path: File or folder that the arrays are computed from. They are computed again when its size or modification
            time changes.
        kind: What the arrays are, in one word; part of the cache file's name.
        state: Everything else that the arrays depend on, with a complete `repr`.
        compute: Computes the arrays, of numbers or bytes.

    Returns:
        The arrays; memory-mapped ones are read-only.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "scenes.txt")
        ...     _ = path.write_text("3 4")
        ...     count = lambda: {"counts": np.array([int(word) for word in path.read_text().split()])}
        ...     cached_arrays(path, "counts", "frame", count)["counts"].tolist()
        [3, 4]
    """
    computed: Arrays = {}

    def write(target: Path) -> None:
        if not computed:
            computed.update(compute())
        with h5py.File(target, "w", libver=("v110", "v110")) as file:  # has checksums of everything but the values
            for name, array in computed.items():
                file.create_dataset(name, data=array)

    target = cached_file(path, repr(state), kind, write, lambda target: _load(target) is not None)
    cached = _load(target) if target else None
    return (computed or compute()) if cached is None else cached


def cached_file(
    source: Path, key: str, kind: str, write: Callable[[Path], None], is_valid: Callable[[Path], bool]
) -> Path | None:
    """Create a file from another one, unless it is in the cache.

    Args:
        source: File or folder that it is created from. It is created again when the size or modification time changes.
        key: Everything else that it depends on.
        kind: What it is, in one word; part of its name.
        write: Writes it to the given path. After an `OSError` or `RuntimeError` the next cache folder is tried.
        is_valid: Returns whether a complete file exists at a path.

    Returns:
        The file, or None if it cannot be written anywhere.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder, "a.txt")
        ...     _ = source.write_text("abc")
        ...     upper = lambda path: path.write_text(source.read_text().upper())
        ...     cached_file(source, "", "upper", upper, Path.is_file).read_text()
        'ABC'
    """
    source = source.resolve()
    stat = source.stat()
    name = f"{source.name}.{_digest((stat.st_size, stat.st_mtime_ns, key))}.{kind}.cache"
    paths = cache_paths(source.with_name(name))
    for path in paths:
        if is_valid(path):
            return path
    for path in paths:
        with suppress(OSError, RuntimeError), file_lock(path):
            if not is_valid(path):
                with log_if_slow(source, kind), atomic_write(path) as temporary:
                    write(temporary)
            return path
    return None


def cache_paths(path: Path) -> list[Path]:
    """Return the possible paths of a cache file, in order of preference.

    Args:
        path: Preferred path, whose name identifies the content within its folder.

    Returns:
        The path itself, and one in the user's cache folder, whose name also identifies the original folder.

    Example:
        >>> [path.name.split(".")[0] for path in cache_paths(Path("/data/clevr/scenes.cache"))]
        ['scenes', 'clevr']
    """
    path = path.parent.resolve() / path.name
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "object_discovery"
    return [path, folder / f"{path.parent.name}.{_digest(str(path.parent))}.{path.name}"]


@contextmanager
def log_if_slow(source: Path, kind: str) -> Iterator[None]:
    """Print a line on standard error if the block takes longer than three seconds.

    Args:
        source: File or folder that is read.
        kind: What is computed from it, in one word.

    Example:
        >>> with log_if_slow(Path("instances_train2017.json"), "index"):
        ...     pass  # fast, so that nothing is printed
    """
    text = f"Preparing the {kind} of {source}; this is done once"
    timer = threading.Timer(_LOG_AFTER, print, [text], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogateescape")).hexdigest()[:16]


def _load(path: Path) -> Arrays | None:
    """Memory-map the arrays of a cache file; None if it is missing or damaged."""
    with suppress(*HDF5_ERRORS, AttributeError), h5py.File(path, "r") as file:
        return {name: _memory_map(path, data) for name, data in file.items()}
    return None


def _memory_map(path: Path, data: h5py.Dataset) -> NDArray[Any]:
    """Memory-map a contiguous dataset; an empty one has no offset in the file."""
    if data.size == 0:
        return np.zeros(data.shape, data.dtype)
    array: NDArray[Any] = np.memmap(path, data.dtype, "r", data.id.get_offset(), data.shape)
    return array
