"""Atomic writes, file locks and permission checks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from object_discovery.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows: two processes may then do the same work, each with its own temporary file
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """Provide a temporary path that replaces `path` when the block ends; after an error it is removed.

    Missing parent folders are created.

    Args:
        path: The file to create or replace.
        sync: Flush to disk before renaming, so that the file also survives a power failure.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/new/file.txt") as temporary:
        ...         _ = temporary.write_text("complete")
        ...     Path(folder, "new", "file.txt").read_text()
        'complete'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lock_path(path: Path) -> Path:
    """Return the path of the lock file of a file.

    Example:
        >>> lock_path(Path("a.cache")).name
        '.a.cache.lock'
    """
    return path.with_name(f".{path.name}.lock")


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a file against other processes and threads that lock it; a killed process releases its lock.

    The lock is on a file next to it, which is removed when the lock is released. File systems without locks grant it to
    every caller.

    Args:
        path: The file; it need not exist. Its folder is created if missing.
        wait: Wait until the lock is free. False: return at once.

    Yields:
        Whether the lock was acquired; always True with `wait`.

    Raises:
        OSError: If the lock file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, file_lock(Path(folder, "a.cache")) as acquired:
        ...     acquired, os.listdir(folder)
        (True, ['.a.cache.lock'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_path(path)
    while True:
        with open(lock, "wb") as file:
            acquired = _try_lock(file.fileno(), wait) and _is_same_file(file.fileno(), lock)
            if wait and not acquired:
                continue  # the previous owner has removed the file that was locked here
            try:
                yield acquired
            finally:
                if acquired:  # otherwise the lock file belongs to another process
                    with suppress(OSError):
                        lock.unlink()
            return


def _try_lock(descriptor: int, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems cannot lock
        pass
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def check_writable(folder: str | Path, argument: str) -> None:
    """Check that a folder is writable, or can be created, before any expensive work.

    Args:
        folder: The folder; it need not exist.
        argument: Name of the argument, for the message.

    Raises:
        UserError: If its path leads through a file, or writing is not permitted.

    Example:
        >>> check_writable("/dev/null/results", "out")
        Traceback (most recent call last):
        object_discovery.errors.UserError: Expected argument `out` to be writable, but /dev/null is no folder
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"Expected argument `{argument}` to be writable, but {existing} is no folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"Expected argument `{argument}` to be writable, but writing to {existing} is not permitted")
