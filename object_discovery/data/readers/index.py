"""Datasets of many small files: list them, and read a number from each only once.

What was read is kept in a file in the folder or, where that cannot be written, in the cache folder (see `cache`). A
number holds for the name, the size and the time of the last change (in nanoseconds) of its file, so that files that are
new or have changed are read again, and only they. What goes unnoticed is a change that keeps the size and sets the time
back. A damaged file of numbers counts as none.
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

from object_discovery.data.readers.cache import cache_places, log_if_slow
from object_discovery.errors import DatasetNotFoundError
from object_discovery.files import atomic_write, file_lock

State: TypeAlias = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""
_T = TypeVar("_T")
_VERSION = 1
_COLUMNS = ("names", "sizes", "times", "numbers")
_DAMAGE = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error)
_PART = 128  # files that a thread reads before it asks for more


def list_files(folder: str | os.PathLike[str], pattern: str) -> list[str]:
    """List the files of a folder and of its direct subfolders.

    Args:
        folder: The folder; None of its files is opened.
        pattern: Regular expression that the whole name of a file must match.

    Returns:
        Paths within the folder, as `12/image.png`, sorted by the file's name.

    Raises:
        DatasetNotFoundError: If the folder does not exist or may not be read.

    Example:
        >>> list_files("no/such/folder", ".*")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot list no/such/folder: No such file or directory
    """
    matches = re.compile(pattern).fullmatch
    with _missing("list"):
        names, folders = _list(Path(folder), matches)
        for subfolder in folders:
            names += [f"{subfolder}/{name}" for name in _list(Path(folder, subfolder), matches)[0]]
    return sorted(names, key=lambda name: (name.rpartition("/")[2], name))


def _list(folder: Path, matches: Callable[[str], object]) -> tuple[list[str], list[str]]:
    """Return the names of the files that match, and of the folders."""
    names, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name)
            elif matches(entry.name):
                names.append(entry.name)
    return names, folders


def file_state(path: str | os.PathLike[str]) -> State:
    """Return the size of a file in bytes and the time of its last change in nanoseconds.

    Raises:
        DatasetNotFoundError: If the file does not exist or may not be read.

    Example:
        >>> file_state(__file__)[0] > 1000
        True
    """
    with _missing("read"):
        state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def read_numbers(
    folder: str | os.PathLike[str], names: Sequence[str], read: Callable[[Path], int], keep_as: str
) -> NDArray[np.int64]:
    """Read a number from each file, in parallel, unless it is known from an earlier time.

    Args:
        folder: Folder of the files.
        names: Paths of the files within the folder, N of them.
        read: Reads the number of a file; called from several threads.
        keep_as: Name under which the numbers are kept; another for each `read`.

    Returns:
        The numbers, `(N,)`.

    Raises:
        DatasetNotFoundError: If a file does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_text("abc")
        ...     read_numbers(folder, ["a.txt"], lambda path: len(path.read_text()), "lengths")
        array([3])
    """
    folder = Path(folder)
    states = zip(names, _in_parallel(lambda name: file_state(f"{folder}/{name}"), names), strict=True)
    keys = [(name, *state) for name, state in states]
    places = cache_places(folder / f"object_discovery.{keep_as}.npz")
    known = {key: number for place in places for key, number in _kept(place).items()}
    missing = [key for key in keys if key not in known]
    if missing:
        with log_if_slow(folder, keep_as):
            known.update(zip(missing, _in_parallel(lambda key: read(folder / key[0]), missing), strict=True))
        _keep(places, {key: known[key] for key in keys})
    return np.array([known[key] for key in keys], np.int64)


def _in_parallel(function: Callable[[Any], _T], values: Sequence[Any]) -> list[_T]:
    """Call a function for each value, in one thread per core; the first error ends it."""
    parts = [values[start : start + _PART] for start in range(0, len(values), _PART)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return [result for part in pool.map(lambda part: [function(value) for value in part], parts) for result in part]


def _kept(place: Path) -> dict[tuple[str, int, int], int]:
    """Read the numbers that are kept at a place, by the name, size and time of change of their files."""
    with suppress(*_DAMAGE), np.load(place, allow_pickle=False) as file:
        if file["version"].tolist() == _VERSION:
            *keys, numbers = (file[column].tolist() for column in _COLUMNS)
            return dict(zip(zip(*keys, strict=True), numbers, strict=True))
    return {}


def _keep(places: Sequence[Path], known: dict[tuple[str, int, int], int]) -> None:
    """Write numbers to the first path that is writable, atomically."""
    columns = [np.array(column) for column in (*zip(*known, strict=True), list(known.values()))]
    named: dict[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
    for place in places:
        with suppress(OSError), file_lock(place), atomic_write(place) as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, version=np.array(_VERSION), **named)
            return


@contextmanager
def _missing(what: str) -> Iterator[None]:
    """Say in one line what is wrong where a file or folder cannot be found."""
    try:
        yield
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot {what} {error.filename}: {error.strerror}") from None
