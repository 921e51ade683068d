from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from object_discovery.download import fetch as fetching
from object_discovery.download.fetch import fetch, part_note
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import file_lock

from .server import Server

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ranges(server: Server) -> list[str | None]:
    return [byte_range for _, byte_range in server.requests]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.bin"


@pytest.fixture
def url(server: Server) -> str:
    server.files["a.bin"] = BODY
    return f"{server.base}/a.bin"


def interrupt_at(position: int) -> Any:
    """Return a progress callback that interrupts a download after `position` bytes."""

    def watch(stage: str, done: int, size: int) -> None:
        assert (stage, size) == ("fetching", len(BODY))
        if done >= position:
            raise KeyboardInterrupt

    return watch


def write_partial_file(server: Server, url: str, path: Path) -> int:
    """Interrupt a download and return the size of the partial file."""
    server.chunk = 10_000
    server.pause = 0.001
    with pytest.raises(KeyboardInterrupt):
        fetch(url, path, watch=interrupt_at(100_000))
    server.pause = 0
    assert names(path.parent) == ["a.bin.part", "a.bin.part.json"]
    part = (path.parent / "a.bin.part").read_bytes()
    assert 100_000 <= len(part) < len(BODY)
    assert part == BODY[: len(part)]
    server.requests.clear()
    return len(part)


@pytest.mark.parametrize("size", [0, 1, len(BODY)])
def test_complete_files_are_downloaded(server: Server, url: str, path: Path, size: int) -> None:
    server.files["a.bin"] = BODY[:size]
    progress: list[tuple[str, int, int]] = []
    fetch(url, path, watch=lambda *values: progress.append(values))
    assert path.read_bytes() == BODY[:size]
    assert names(path.parent) == ["a.bin"]
    assert progress[0] == ("fetching", 0, size)
    assert progress[-1] == ("fetching", size, size)


def test_existing_files_are_not_downloaded(server: Server, url: str, path: Path) -> None:
    path.write_text("mine")
    part_note(path).write_text("of a run that was killed at the last moment")
    fetch(url, path)
    assert path.read_text() == "mine"
    assert names(path.parent) == ["a.bin"]
    assert server.requests == []


def test_partial_file_is_continued(server: Server, url: str, path: Path) -> None:
    done = write_partial_file(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [f"bytes={done}-"]
    assert server.conditions == [None, f'"{hashlib.md5(BODY).hexdigest()}"']
    assert names(path.parent) == ["a.bin"]


def test_last_modified_is_used_without_a_strong_etag(server: Server, url: str, path: Path) -> None:
    server.headers = {"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    done = write_partial_file(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [f"bytes={done}-"]


def test_cut_connections_are_continued(server: Server, url: str, path: Path) -> None:
    server.cuts = [100_000, 0, 50_000, 0, 0]
    fetch(url, path)
    assert path.read_bytes() == BODY
    positions = [100_000, 100_000, 150_000, 150_000, 150_000]
    assert ranges(server) == [None, *(f"bytes={position}-" for position in positions)]


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("body", [OTHER, OTHER[:200_000], OTHER + b"more"])
def test_changed_file_is_downloaded_from_the_start(
    server: Server, url: str, path: Path, body: bytes, if_range: bool
) -> None:
    write_partial_file(server, url, path)
    server.files["a.bin"] = body
    server.if_range = if_range
    fetch(url, path)
    assert path.read_bytes() == body
    assert names(path.parent) == ["a.bin"]


def test_changed_size_is_detected_with_an_unchanged_etag(server: Server, url: str, path: Path) -> None:
    server.headers = {"ETag": '"always"'}
    write_partial_file(server, url, path)
    server.files["a.bin"] = OTHER + b"more"
    fetch(url, path)
    assert path.read_bytes() == OTHER + b"more"


def test_file_smaller_than_the_partial_file_is_downloaded_from_the_start(server: Server, url: str, path: Path) -> None:
    write_partial_file(server, url, path)
    server.files["a.bin"], server.if_range = OTHER[:1000], False
    fetch(url, path)
    assert path.read_bytes() == OTHER[:1000]
    assert server.requests[0][1] is not None  # answered by 416
    assert server.requests[-1][1] is None


def test_without_ranges_the_download_restarts(server: Server, url: str, path: Path) -> None:
    write_partial_file(server, url, path)
    server.ranges = False
    server.cuts = [250_000]
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_without_ranges_attempts_are_limited(server: Server, url: str, path: Path) -> None:
    server.ranges = False
    server.cuts = [200_000, 250_000] * 20
    with pytest.raises(UserError, match=r"^Cannot reach http.*: the connection was cut; run again to go on$"):
        fetch(url, path)
    assert len(server.requests) == fetching.ATTEMPTS + 2
    assert names(path.parent) == ["a.bin.part", "a.bin.part.json"]


@pytest.mark.parametrize("headers", [{"ETag": ""}, {"ETag": 'W/"weak"'}])
def test_without_validators_the_download_restarts(
    server: Server, url: str, path: Path, headers: dict[str, str]
) -> None:
    server.headers = headers
    write_partial_file(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [None]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 1}', "other"])
def test_partial_file_with_an_invalid_note_is_discarded(server: Server, url: str, path: Path, note: str) -> None:
    write_partial_file(server, url, path)
    (path.parent / "a.bin.part").write_bytes(OTHER[:5000])
    if note == "other":
        note = json.dumps({**json.loads(part_note(path).read_text()), "url": "http://127.0.0.1/b.bin"})
    part_note(path).write_text(note)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_temporary_errors_are_retried(server: Server, url: str, path: Path, status: int) -> None:
    server.statuses = [status] * (fetching.ATTEMPTS - 1)
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_persistent_errors_are_reported(server: Server, url: str, path: Path) -> None:
    server.statuses = [503] * 100
    with pytest.raises(UserError, match=r"^Cannot reach .*a\.bin: 503 Service Unavailable; run again to go on$"):
        fetch(url, path)
    assert len(server.requests) == fetching.ATTEMPTS
    assert names(path.parent) == []


def test_exponential_backoff(server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(fetching, "PAUSE", 1.0)
    monkeypatch.setattr(fetching, "TIMEOUT", 5.0)
    with pytest.raises(UserError, match="Connection refused"):
        fetch("http://127.0.0.1:1/a.bin", path)
    assert pauses == [1, 2, 4, 8, 16]
    assert names(path.parent) == []


def test_connection_timeouts_are_retried(server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)
    server.chunk, server.pause = 150_000, 0.5
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert len(server.requests) > 1


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, DatasetNotFoundError, r"/a\.bin is not there \(404 Not Found\)$"),
        (410, DatasetNotFoundError, r"/a\.bin is not there \(410 Gone\)$"),
        (403, UserError, r"/a\.bin cannot be had: 403 Forbidden$"),
    ],
)
def test_permanent_errors_are_reported(
    server: Server, url: str, path: Path, status: int, error: type[UserError], message: str
) -> None:
    server.statuses = [status]
    with pytest.raises(error, match=message):
        fetch(url, path)
    assert names(path.parent) == []
    assert len(server.requests) == 1


def test_files_of_unknown_size_are_refused(server: Server, url: str, path: Path) -> None:
    server.headers = {"Content-Length": ""}
    with pytest.raises(UserError, match="the server does not say how large the file is"):
        fetch(url, path)
    assert names(path.parent) == []


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_published_checksums_are_verified(server: Server, url: str, path: Path, kind: str) -> None:
    expected = f"{kind}:{hashlib.new(kind, BODY).hexdigest()}"
    server.files["a.bin"] = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(CorruptFileError, match=rf"a\.bin: its {kind} is wrong; run again to fetch it anew$"):
        fetch(url, path, len(BODY), expected)
    assert names(path.parent) == []
    server.files["a.bin"] = BODY
    fetch(url, path, len(BODY), expected)
    assert path.read_bytes() == BODY


def test_wrong_size_is_refused_before_the_download(server: Server, url: str, path: Path) -> None:
    with pytest.raises(CorruptFileError, match="expected 5 bytes, but the server has 300000"):
        fetch(url, path, 5)
    assert names(path.parent) == []


def hash_header(kind: str, digest: bytes) -> str:
    return f"{kind}={base64.b64encode(digest).decode()}"


CRC = hash_header("crc32c", google_crc32c.value(BODY).to_bytes(4, "big"))
MD5 = hash_header("md5", hashlib.md5(BODY).digest())


@pytest.mark.parametrize("header", [CRC, MD5, f"{CRC}, {MD5}"])
def test_checksums_of_google_cloud_storage_are_verified(server: Server, url: str, path: Path, header: str) -> None:
    server.headers = {"x-goog-hash": header}
    write_partial_file(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    path.unlink()
    server.files["a.bin"] = OTHER
    with pytest.raises(CorruptFileError, match=r"its (md5|crc32c) is wrong"):
        fetch(url, path)
    assert names(path.parent) == []
    server.headers["x-goog-stored-content-encoding"] = "gzip"  # the checksum is of the compressed file
    fetch(url, path)
    assert path.read_bytes() == OTHER


def test_damaged_partial_file_is_detected(server: Server, url: str, path: Path) -> None:
    write_partial_file(server, url, path)
    part = path.parent / "a.bin.part"
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(CorruptFileError, match="its md5 is wrong"):
        fetch(url, path, None, f"md5:{hashlib.md5(BODY).hexdigest()}")
    assert names(path.parent) == []


def test_full_disk_is_refused_before_the_download(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 200_000))
    with pytest.raises(UserError, match=r"^Expected 1 MiB of free disk space in .*, but got 0 MiB; free some and run"):
        fetch(url, path)
    assert names(path.parent) == []


def test_free_space_is_needed_for_the_remaining_bytes_only(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_partial_file(server, url, path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 200_000))
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_disk_full_during_the_download_leaves_a_partial_file(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = fetching._write

    def write_until_full(file: Any, block: bytes) -> None:
        write(file, block[: 100_000 - file.tell()])
        if file.tell() == 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_write", write_until_full)
        with pytest.raises(UserError, match=r"^Cannot write .*a\.bin: No space left on device; run again to go on$"):
            fetch(url, path)
    assert names(path.parent) == ["a.bin.part", "a.bin.part.json"]
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [None, "bytes=100000-"]


def test_concurrent_downloads_are_refused(server: Server, url: str, path: Path) -> None:
    with file_lock(path.with_name("a.bin.part")):
        with pytest.raises(UserError, match=r"a\.bin is being downloaded by another process; let it finish$"):
            fetch(url, path)
        assert server.requests == []
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_file_systems_without_locks(server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_short_writes_are_completed() -> None:
    class ShortWriter:
        written = b""

        def write(self, block: memoryview) -> int:
            self.written += bytes(block[:7])
            return min(7, len(block))

    writer = ShortWriter()
    fetching._write(writer, BODY[:100])  # type: ignore[arg-type]
    assert writer.written == BODY[:100]


def test_digests_have_their_algorithm_as_prefix(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456789")  # the published check value of CRC-32C
    for expected in ("crc32c:e3069283", "md5:25f9e794323b453885f5181f1b624d0b"):
        assert fetching._digest(tmp_path / "a", expected, lambda *_: None) == expected
