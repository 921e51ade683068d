"""Cache what is slow to compute from files: next to them or, where nothing can be written, in the user's cache folder.

The cache folder is `$XDG_CACHE_HOME`, or `~/.cache`, then `object_discovery`. What is kept appears when it is whole, so
that a process that is killed does no harm; of several processes one makes it while the others wait. What is damaged is
made again.
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
"""Arrays by name; none of objects."""
_PATIENCE = 3.0  # seconds


def cached_arrays(path: Path, kind: str, state: object, make: Callable[[], Arrays]) -> Arrays:
    """Return arrays that depend on a file or folder, made once and mapped into memory from then on.

    Args:
        path: What the arrays depend on; when its size or time changes, they are made again.
        kind: What they are, in a word that becomes part of the name.
        state: What else they depend on; anything whose `repr` says it all.
        make: Makes the arrays, of numbers or bytes.

    Returns:
        The arrays, read-only where they are mapped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "scenes.txt")
        ...     _ = path.write_text("3 4")
        ...     count = lambda: {"counts": np.array([int(word) for word in path.read_text().split()])}
        ...     cached_arrays(path, "counts", "frame", count)["counts"].tolist()
        [3, 4]
    """
    made: Arrays = {}

    def write(place: Path) -> None:
        if not made:
            made.update(make())
        with h5py.File(place, "w", libver=("v110", "v110")) as file:  # it has checksums of all but the values
            for name, array in made.items():
                file.create_dataset(name, data=array)

    place = cached_file(path, repr(state), kind, write, lambda place: _load(place) is not None)
    kept = _load(place) if place else None
    return (made or make()) if kept is None else kept


def cached_file(
    source: Path, key: str, kind: str, write: Callable[[Path], None], valid: Callable[[Path], bool]
) -> Path | None:
    """Make a file from another one, once.

    Args:
        source: The file or folder it is made from; when its size or time changes, it is made again.
        key: What else it depends on.
        kind: What it is, in a word that becomes part of its name.
        write: Writes it to the path it is given; an `OSError` or `RuntimeError` says that this place will not do.
        valid: Whether a path holds a complete file.

    Returns:
        The file, or None if it can be written nowhere.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder, "a.txt")
        ...     _ = source.write_text("abc")
        ...     upper = lambda path: path.write_text(source.read_text().upper())
        ...     cached_file(source, "all of it", "upper", upper, Path.is_file).read_text()
        'ABC'
    """
    source = source.resolve()
    state = source.stat()
    name = f"{source.name}.{_digest((state.st_size, state.st_mtime_ns, key))}.{kind}.cache"
    places = cache_places(source.with_name(name))
    for place in places:
        if valid(place):
            return place
    for place in places:
        with suppress(OSError, RuntimeError), file_lock(place):
            if not valid(place):
                with log_if_slow(source, kind), atomic_write(place) as temporary:
                    write(temporary)
            return place
    return None


def cache_places(path: Path) -> list[Path]:
    """Return where a file may be kept, best first.

    Args:
        path: Where it should be; its name holds all that it depends on, but for the place.

    Returns:
        The path, and one in the cache folder whose name tells it from files of the same name in other folders.

    Example:
        >>> [place.name.split(".")[0] for place in cache_places(Path("/data/clevr/scenes.cache"))]
        ['scenes', 'clevr']
    """
    path = path.parent.resolve() / path.name
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "object_discovery"
    return [path, folder / f"{path.parent.name}.{_digest(str(path.parent))}.{path.name}"]


@contextmanager
def log_if_slow(source: Path, kind: str) -> Iterator[None]:
    """Say on standard error what the user waits for, if it takes more than a few seconds.

    Args:
        source: The file or folder that is read.
        kind: What is made of it.

    Example:
        >>> with log_if_slow(Path("instances_train2017.json"), "index"):
        ...     pass  # nothing is said of what is quick
    """
    text = f"Preparing the {kind} of {source}; this is done once"
    timer = threading.Timer(_PATIENCE, print, [text], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogateescape")).hexdigest()[:16]


def _load(place: Path) -> Arrays | None:
    with suppress(*HDF5_ERRORS, AttributeError), h5py.File(place, "r") as file:
        return {name: _mapped(place, data) for name, data in file.items()}
    return None


def _mapped(place: Path, data: h5py.Dataset) -> NDArray[Any]:
    """Map a dataset that is stored in one piece; one without values has no place in the file."""
    if data.size == 0:
        return np.zeros(data.shape, data.dtype)
    mapped: NDArray[Any] = np.memmap(place, data.dtype, "r", data.id.get_offset(), data.shape)
    return mapped
