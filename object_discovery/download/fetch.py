"""Fetch a file over HTTP so that it may be interrupted at any moment.

An incomplete file is called `NAME.part`, and `NAME.part.json` holds its source and size. It is renamed when it is
complete and its checksum is verified.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

import google_crc32c

from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write, file_lock

Watch = Callable[[str, int, int], None]
"""Called with the current step, the bytes done and the bytes in all."""

ATTEMPTS = 6
"""How often a connection is tried without a byte of progress before giving up."""
PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further one."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as dropped."""
_BLOCK = 1 << 20
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


class _DroppedError(Exception):
    """A connection that ended too early."""


@dataclass(frozen=True)
class _State:
    """What a part is a part of."""

    url: str
    size: int
    validator: str | None
    """Strong ETag or date of the file. None: a part cannot be continued."""
    checksum: str | None
    """Checksum that the server states."""

    def may_be(self, other: _State) -> bool:
        """Whether this, read from the headers of a part, can be that file."""
        return self.size == other.size and self.validator in (None, other.validator)


def check_space(folder: Path, size: int) -> None:
    """Refuse to write more than fits on the disk.

    Args:
        folder: A folder on the disk.
        size: Bytes to be written.

    Raises:
        UserError: If they do not fit.

    Example:
        >>> check_space(Path("."), 1 << 70)
        Traceback (most recent call last):
        object_discovery.errors.UserError: Expected 1125899906842624 MiB of free disk space in ., but got ... MiB; ...
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        got = f"Expected {(size >> 20) or 1} MiB of free disk space in {folder}, but got {free >> 20} MiB"
        raise UserError(f"{got}; free some and run again to go on")


def part_note(path: Path) -> Path:
    """Return the path of the metadata of a partial download.

    Args:
        path: The file that the part is to become.

    Example:
        >>> part_note(Path("a.zip")).name
        'a.zip.part.json'
    """
    return path.with_name(f"{path.name}.part.json")


def fetch(
    url: str, path: Path, size: int | None = None, checksum: str | None = None, watch: Watch = lambda *_: None
) -> None:
    """Fetch a file, going on from the part that an earlier run left.

    Args:
        url: Address of the file.
        path: Where to put it; nothing is there before it is whole and verified. What is there is left alone.
        size: Exact size in bytes. None: what the server says.
        checksum: Published checksum, as `md5:...` or `sha256:...`. None: what the server says, if it does.
        watch: Told of progress.

    Raises:
        DatasetNotFoundError: If there is no such file.
        CorruptFileError: If the size or the checksum is wrong; nothing is left behind.
        UserError: If the server cannot be reached, or the file cannot be written; the part remains.
    """
    part = _Part(path, url)
    try:
        with part.claimed():
            if path.exists():
                return  # another run has just finished it
            state = _transfer(part, size, watch)
            for expected in filter(None, (checksum, state.checksum)):
                if _digest(part.path, expected, watch) != expected:
                    part.path.unlink()
                    raise CorruptFileError(f"{url}: its {expected.split(':')[0]} is wrong; run again to fetch it anew")
            part.finish()
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}; run again to go on") from None


class _Part:
    """A file on its way and its note."""

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        self.path = target.with_name(f"{target.name}.part")
        self.note = part_note(target)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes away; at the end no note stays without a part."""
        with file_lock(self.path, wait=False) as locked:
            if not locked:
                raise UserError(f"{self.target} is being downloaded by another process; let it finish")
            try:
                yield
            finally:
                if not self.path.exists():
                    self.note.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def state(self) -> _State | None:
        """Read the note; None, and no part, if it does not belong to this file."""
        try:
            state = _State(**json.loads(self.note.read_text()))
            if state.url == self.url and self.size <= state.size:
                return state
        except (FileNotFoundError, ValueError, TypeError):
            pass
        self.path.unlink(missing_ok=True)
        return None

    def begin(self, state: _State) -> None:
        """Start anew. The partial file is removed first, so that the metadata never describes another file's part."""
        self.path.unlink(missing_ok=True)
        with atomic_write(self.note) as temporary:
            temporary.write_text(json.dumps(asdict(state)))

    def finish(self) -> None:
        """Give the file its name."""
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)


def _transfer(part: _Part, size: int | None, watch: Watch) -> _State:
    """Bring the part to its full size."""
    failures = best = 0
    while True:
        state = part.state()
        if state and part.path.exists() and part.size == state.size and size in (None, state.size):
            return state
        best = max(best, part.size)
        try:
            _receive(part, state, size, watch)
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            _judge(error, part)
            reason = f"{error.code} {error.reason}"
        except (http.client.HTTPException, urllib.error.URLError, _DroppedError) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        failures = 0 if part.size > best else failures + 1
        if failures >= ATTEMPTS:
            raise UserError(f"Cannot reach {part.url}: {reason}; run again to go on")
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))


def _judge(error: urllib.error.HTTPError, part: _Part) -> None:
    """Raise what another attempt cannot mend."""
    error.close()
    if error.code == 416:  # the part is no part of this file
        part.path.unlink(missing_ok=True)
    elif error.code in (404, 410):
        raise DatasetNotFoundError(f"{part.url} is not there ({error.code} {error.reason})") from None
    elif error.code not in _TEMPORARY:
        raise UserError(f"{part.url} cannot be had: {error.code} {error.reason}") from None


def _receive(part: _Part, state: _State | None, size: int | None, watch: Watch) -> None:
    """Ask for what is missing and append it to the part."""
    start = 0
    request = urllib.request.Request(
        part.url, headers={"User-Agent": "object_discovery", "Accept-Encoding": "identity"}
    )
    if state and state.validator and part.size:
        start = part.size
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", state.validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.URLError:
        raise
    except OSError as error:
        raise _DroppedError(error) from None
    with response:
        offered = _offered(part.url, response.status, response.headers, start)
        if response.status == 206 and not (state and offered.may_be(state)):  # despite If-Range: begin again
            part.path.unlink(missing_ok=True)
            return
        if size not in (None, offered.size):
            raise CorruptFileError(f"{part.url}: expected {size} bytes, but the server has {offered.size}")
        if response.status != 206:
            part.begin(offered)
        check_space(part.path.parent, offered.size - part.size)
        _append(part, response, offered.size, watch)


def _offered(url: str, status: int, headers: Message, start: int) -> _State:
    """Read from the headers of an answer which file it is."""
    length = headers.get("Content-Length")
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        length = match[2] if match and int(match[1]) == start else None
    if length is None:
        raise UserError(f"{url}: the server does not say how large the file is; fetch it by hand")
    tag = headers.get("ETag")
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    stated = dict(
        item.strip().split("=", 1)
        for line in headers.get_all("x-goog-hash", [])
        for item in line.split(",")
        if "=" in item
    )
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        stated = {}  # it is of other bytes than these
    kind = next((kind for kind in ("md5", "crc32c") if kind in stated), None)
    checksum = f"{kind}:{base64.b64decode(stated[kind]).hex()}" if kind else None
    return _State(url, int(length), validator, checksum)


def _append(part: _Part, response: Any, size: int, watch: Watch) -> None:
    """Append an answer to the part."""
    with open(part.path, "ab", buffering=0) as file:
        done = file.tell()
        while done < size:
            watch("fetching", done, size)
            try:
                block = response.read1(min(_BLOCK, size - done))
            except (OSError, http.client.HTTPException) as error:
                raise _DroppedError(error) from None
            if not block:
                return
            _write(file, block)
            done += len(block)
        watch("fetching", done, size)


def _write(file: IO[bytes], block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


class _Crc32c:
    """CRC-32C in the manner of `hashlib`."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, block: bytes) -> None:
        """Take in more bytes."""
        self.value = google_crc32c.extend(self.value, block)

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        return f"{self.value:08x}"


def _digest(path: Path, kind: str, watch: Watch) -> str:
    """Compute the checksum of a file, as `kind:hex`, where `kind` may go on after a colon."""
    kind, size, done = kind.split(":", 1)[0], path.stat().st_size, 0
    digest = _Crc32c() if kind == "crc32c" else hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            watch("verifying", done, size)
    return f"{kind}:{digest.hexdigest()}"
