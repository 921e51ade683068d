"""Unpack untrusted archives safely: nothing is written outside the folder, and no partial content appears in it.

An archive is unpacked into a temporary folder, whose content is moved into place when it is complete. Members that
are neither files nor folders, whose names are absolute or climb (`..`), and links with such targets are refused:
without a `..` and without a root anywhere, no chain of links can lead out.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from object_discovery.download.fetch import Watch, check_space
from object_discovery.errors import CorruptFileError, UserError

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,  # a password, or a compression that Python does not know
)


def unpack(archive: Path, folder: Path, watch: Watch = lambda *_: None) -> list[str]:
    """Unpack a zip or tar archive into a folder, replacing files of the same names.

    Args:
        archive: The archive, compressed or not.
        folder: Where its content goes; it need not exist.
        watch: Told of progress.

    Returns:
        What stands at the top of the archive.

    Raises:
        CorruptFileError: If the archive is damaged, or a member is not safe to unpack; nothing of it is left behind.
        UserError: If the disk is too full or cannot be written to; nothing of it is left behind.
    """
    staging = archive.with_name(f".{archive.name}.unpacking")
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        staging.mkdir()
        try:
            with open(archive, "rb") as file:
                is_zip = zipfile.is_zipfile(file)
            for done, size in _unpack_zip(archive, staging) if is_zip else _unpack_tar(archive, staging):
                watch("unpacking", done, size)
        except (*_DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk; without a number it is gzip or bz2
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CorruptFileError(f"{archive}: cannot be unpacked ({reason}); remove it and run again") from None
        names = sorted(path.name for path in staging.iterdir())
        folder.mkdir(parents=True, exist_ok=True)
        _merge(staging, folder)
        return names
    except OSError as error:
        raise UserError(f"Cannot unpack {archive}: {error.strerror or error}; run again to go on") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(archive: Path, name: str, what: str = "member") -> None:
    """Refuse a path that could lead out of the folder."""
    windows = PureWindowsPath(name)
    rooted = PurePosixPath(name).is_absolute() or windows.root or windows.drive
    if rooted or ".." in windows.parts or "\0" in name:
        raise CorruptFileError(
            f"{archive}: refused, as its {what} {name!r} leads out of the folder; nothing was unpacked"
        )


def _refuse(archive: Path, name: str) -> CorruptFileError:
    return CorruptFileError(f"{archive}: refused, as its member {name!r} is no file; nothing was unpacked")


def _unpack_zip(archive: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Unpack a zip archive; yield the bytes done and in all."""
    with zipfile.ZipFile(archive) as source:
        members = source.infolist()
        for member in members:
            _check(archive, member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refuse(archive, member.filename)
        size, done = sum(member.file_size for member in members), 0
        check_space(folder, size)
        for member in members:
            source.extract(member, folder)
            done += member.file_size
            yield done, size


def _unpack_tar(archive: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Unpack a tar archive; yield the bytes done and in all."""
    size = archive.stat().st_size
    check_space(folder, size)  # at least, if it is compressed
    # without the filter, on early patch releases: nothing of the member but its content
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {"set_attrs": False}
    with open(archive, "rb") as file, tarfile.open(fileobj=file) as source:
        for member in source:
            _check(archive, member.name)
            if member.issym() or member.islnk():
                _check(archive, member.linkname, "link to")
            elif not member.isfile() and not member.isdir():
                raise _refuse(archive, member.name)
            source.extract(member, folder, **options)
            yield file.tell(), size
        while source.fileobj and source.fileobj.read(1 << 20):
            pass  # to the end, where gzip's checksum is


def _merge(source: Path, target: Path) -> None:
    """Move the content of a folder into another, whole folders at once where they are new."""
    for path in source.iterdir():
        destination = target / path.name
        if path.is_dir() and not path.is_symlink() and destination.is_dir():
            _merge(path, destination)
        else:
            os.replace(path, destination)
