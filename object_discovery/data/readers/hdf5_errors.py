"""Opening of HDF5 files, and one-line errors for damaged ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import h5py
from isal import isal_zlib

from object_discovery.errors import CorruptFileError, DatasetNotFoundError

_INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)
HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, _INFLATE_ERROR)
"""Exceptions that reading a damaged HDF5 file raises."""


@contextmanager
def hdf5_errors(path: Path, problem: str) -> Iterator[None]:
    """Convert the errors of reading an HDF5 file to a `CorruptFileError` that names the file.

    Args:
        path: The file that is read.
        problem: What cannot be done if reading fails, for the message.

    Raises:
        CorruptFileError: If reading fails.

    Example:
        >>> with hdf5_errors(Path("clevr.h5"), "cannot read `image` of scene 7"):
        ...     raise OSError("wrong checksum")
        Traceback (most recent call last):
        object_discovery.errors.CorruptFileError: clevr.h5: cannot read `image` of scene 7, get or convert the file \
again (wrong checksum)
    """
    try:
        yield
    except CorruptFileError:
        raise
    except HDF5_ERRORS as error:
        reason = " ".join(str(error).split())
        raise CorruptFileError(f"{path}: {problem}, get or convert the file again ({reason})") from None


def open_hdf5(path: Path, content: str) -> h5py.File:
    """Open an HDF5 file for reading.

    Args:
        path: The file.
        content: Expected content in a few words, for messages.

    Returns:
        The open file.

    Raises:
        DatasetNotFoundError: If the file does not exist or is not readable.
        CorruptFileError: If it is truncated, damaged or not an HDF5 file.

    Example:
        >>> open_hdf5(Path("clevr.h5"), "scenes")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: clevr.h5
    """
    if path.is_dir():
        raise CorruptFileError(f"{path}: expected an HDF5 file of {content}, but got a folder")
    if not path.exists():
        raise DatasetNotFoundError(f"No such file: {path}")
    try:
        return h5py.File(path, "r")
    except PermissionError:
        raise DatasetNotFoundError(f"Cannot read {path}: permission denied") from None
    except HDF5_ERRORS as error:
        reason = " ".join(str(error).split())
        raise CorruptFileError(
            f"{path}: expected a whole HDF5 file of {content}, but it cannot be opened ({reason})"
        ) from None
