"""Files that are made once from a dataset's files and kept on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: two processes may then do the same work, each in a file of its own
    fcntl = None  # type: ignore[assignment]


def cached_file(
    source: str | os.PathLike[str], key: str, suffix: str, write: Callable[[Path], None], valid: Callable[[Path], bool]
) -> Path | None:
    """Make a file from another one, once.

    It stands beside the source or, where that folder cannot be written, in the user's cache folder (`XDG_CACHE_HOME`,
    else `~/.cache`). Nobody ever sees half of it, and of several processes one makes it while the others wait.

    Args:
        source: The file or folder it is made from; when its size or time changes, it is made again.
        key: What else it depends on.
        suffix: End of its name.
        write: Writes it to the path it is given; an `OSError` or `RuntimeError` says that this place will not do.
        valid: Tells whether the file at a path is whole; a file that is not is made again.

    Returns:
        The file, or None if it can be written nowhere.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder, "a.txt")
        ...     _ = source.write_text("abc")
        ...     upper = lambda path: path.write_text(source.read_text().upper())
        ...     cached_file(source, "upper", "txt", upper, Path.is_file).read_text()
        'ABC'
    """
    places = _places(Path(source), key, suffix)
    for place in places:
        if valid(place):
            return place
    for place in places:
        with suppress(OSError, RuntimeError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with _alone(place) as own:
                if not valid(place):
                    _write(own, place, write)
                return place
    return None


def _places(source: Path, key: str, suffix: str) -> list[Path]:
    """Return where the file may stand, best first; the name holds all that it depends on."""
    source = source.resolve()
    state = source.stat()
    depends = repr((str(source), state.st_size, state.st_mtime_ns, key))
    name = f"{source.name}.{hashlib.sha256(depends.encode()).hexdigest()[:16]}.{suffix}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "object_discovery"
    return [source.parent / name, folder / name]


def _write(own: Path, place: Path, write: Callable[[Path], None]) -> None:
    try:
        write(own)
        os.replace(own, place)
    finally:
        with suppress(OSError):
            own.unlink()


@contextmanager
def _alone(place: Path) -> Iterator[Path]:
    """Wait until no other process makes this file, and give the path to write to."""
    lock = place.with_name(f"{place.name}.lock")
    with open(lock, "wb") as held:
        alone = fcntl is not None
        if alone:
            try:
                fcntl.flock(held, fcntl.LOCK_EX)
            except OSError:  # some network file systems cannot lock
                alone = False
        try:
            yield place.with_name(f"{place.name}.new" if alone else f"{place.name}.{os.getpid()}.new")
        finally:
            with suppress(OSError):
                lock.unlink()
