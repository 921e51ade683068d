"""File lists of datasets of many small files, and cached integers of each file, such as object counts.

The integers are cached in the dataset's folder or, where that is not writable, in the user's cache folder (see
`cache`). An entry is valid for the name, size and modification time (in nanoseconds) of its file, so that only new and
changed files are read again. A change that keeps both size and time is not noticed. A damaged cache is ignored.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.readers.cache import cache_paths, log_if_slow
from object_discovery.errors import DatasetNotFoundError
from object_discovery.files import atomic_write, file_lock

FileState: TypeAlias = tuple[int, int]
"""Size in bytes, and modification time in nanoseconds."""
_Key: TypeAlias = tuple[str, int, int]  # name, size and modification time
_T = TypeVar("_T")
_VERSION = 1
_COLUMNS = ("names", "sizes", "times", "numbers")
_READ_ERRORS = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error)  # of a damaged cache
_CHUNK = 128  # files per task of a thread


def list_files(folder: str | os.PathLike[str], pattern: str) -> list[str]:
    """List the files of a folder and of its direct subfolders.

    Args:
        folder: The folder.
        pattern: Regular expression that must match the whole file name.

    Returns:
        Paths relative to the folder, such as `12/image.png`, sorted by file name.

    Raises:
        DatasetNotFoundError: If the folder does not exist or is not readable.

    Example:
        >>> list_files("no/such/folder", ".*")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot list no/such/folder: No such file or directory
    """
    matches = re.compile(pattern).fullmatch
    with _not_found("list"):
        names, subfolders = _scan(Path(folder), matches)
        for subfolder in subfolders:
            names += [f"{subfolder}/{name}" for name in _scan(Path(folder, subfolder), matches)[0]]
    return sorted(names, key=lambda name: (name.rpartition("/")[2], name))


def _scan(folder: Path, matches: Callable[[str], object]) -> tuple[list[str], list[str]]:
    """Return the names of the matching files, and of the subfolders."""
    names, subfolders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                subfolders.append(entry.name)
            elif matches(entry.name):
                names.append(entry.name)
    return names, subfolders


def file_state(path: str | os.PathLike[str]) -> FileState:
    """Return the size of a file in bytes, and its modification time in nanoseconds.

    Raises:
        DatasetNotFoundError: If the file does not exist or is not readable.

    Example:
        >>> file_state(__file__)[0] > 1000
        True
    """
    with _not_found("read"):
        stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def cached_integers(
    folder: str | os.PathLike[str], names: Sequence[str], read: Callable[[Path], int], kind: str
) -> NDArray[np.int64]:
    """Read an integer from each file in parallel; later calls read the cache.

    Args:
        folder: Folder of the files.
        names: Paths of N files relative to the folder.
        read: Reads the integer of a file; called in several threads.
        kind: Name of the cache, unique for each `read`.

    Returns:
        The integers, `(N,)`.

    Raises:
        DatasetNotFoundError: If a file does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_text("abc")
        ...     cached_integers(folder, ["a.txt"], lambda path: len(path.read_text()), "lengths")
        array([3])
    """
    folder = Path(folder)
    states = _map_in_threads(lambda name: file_state(f"{folder}/{name}"), names)
    keys = [(name, *state) for name, state in zip(names, states, strict=True)]
    paths = cache_paths(folder / f"object_discovery.{kind}.npz")
    cached = {key: number for path in paths for key, number in _read_cache(path).items()}
    missing = [key for key in keys if key not in cached]
    if missing:
        with log_if_slow(folder, kind):
            cached.update(zip(missing, _map_in_threads(lambda key: read(folder / key[0]), missing), strict=True))
        _write_cache(paths, {key: cached[key] for key in keys})
    return np.array([cached[key] for key in keys], np.int64)


def _map_in_threads(function: Callable[[Any], _T], values: Sequence[Any]) -> list[_T]:
    """Call a function for each value in a thread pool, in order; the first exception is raised."""
    chunks = [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda chunk: [function(value) for value in chunk], chunks)
        return [result for chunk in results for result in chunk]


def _read_cache(path: Path) -> dict[_Key, int]:
    """Read the integers of a cache file; a missing or damaged one has none."""
    with suppress(*_READ_ERRORS), np.load(path, allow_pickle=False) as file:
        if file["version"].tolist() == _VERSION:
            *keys, numbers = (file[column].tolist() for column in _COLUMNS)
            return dict(zip(zip(*keys, strict=True), numbers, strict=True))
    return {}


def _write_cache(paths: Sequence[Path], cached: dict[_Key, int]) -> None:
    """Write the integers atomically to the first writable path."""
    columns = [np.array(column) for column in (*zip(*cached, strict=True), list(cached.values()))]
    arrays: dict[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
    for path in paths:
        with suppress(OSError), file_lock(path), atomic_write(path) as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, version=np.array(_VERSION), **arrays)
            return


@contextmanager
def _not_found(action: str) -> Iterator[None]:
    """Convert an `OSError` to a `DatasetNotFoundError` that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot {action} {error.filename}: {error.strerror}") from None
