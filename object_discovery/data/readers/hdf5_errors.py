"""Open HDF5 files, and say in one line what is wrong with one that is damaged."""

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
"""The ways in which reading a damaged HDF5 file fails."""


@contextmanager
def hdf5_errors(path: Path, what: str) -> Iterator[None]:
    """Name the file where it makes HDF5 fail in one of its many ways.

    Args:
        path: The file that is read.
        what: What is wrong with it then.

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
        raise CorruptFileError(f"{path}: {what}, get or convert the file again ({reason})") from None


def open_hdf5(path: Path, content: str) -> h5py.File:
    """Open an HDF5 file for reading.

    Args:
        path: The file.
        content: What it should hold, in a few words for the user.

    Returns:
        The open file.

    Raises:
        DatasetNotFoundError: If there is no such file, or it may not be read.
        CorruptFileError: If it is truncated, damaged or of another kind.

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
