"""Write files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from object_discovery.errors import UserError


@contextmanager
def write_beside(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` at the end; after an error nothing is left of it.

    Folders that are missing are made.

    Args:
        path: The file to make or to replace.
        sync: Wait until it is safe on the disk, so that it is whole also after the machine has stopped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with write_beside(f"{folder}/new/file.txt") as beside:
        ...         _ = beside.write_text("all of it")
        ...     Path(folder, "new", "file.txt").read_text()
        'all of it'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        if sync:
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(folder: str | Path, argument: str) -> None:
    """Refuse a folder that cannot be written to, before any work is done for it.

    Args:
        folder: The folder; it need not exist.
        argument: Name of the argument that gave it, for the message.

    Raises:
        UserError: If a file is in the way, or writing is not permitted.

    Example:
        >>> check_writable("/dev/null/results", "out")
        Traceback (most recent call last):
        object_discovery.errors.UserError: Expected argument `out` to be writable, but /dev/null is no folder
    """
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UserError(f"Expected argument `{argument}` to be writable, but {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"Expected argument `{argument}` to be writable, but writing to {there} is not permitted")
