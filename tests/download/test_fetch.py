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
    return [wanted for _, wanted in server.asked]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.bin"


@pytest.fixture
def url(server: Server) -> str:
    server.files["a.bin"] = BODY
    return f"{server.base}/a.bin"


def stop_at(place: int) -> Any:
    """Interrupt a download at the first byte from `place` on."""

    def watch(stage: str, done: int, size: int) -> None:
        assert (stage, size) == ("fetching", len(BODY))
        if done >= place:
            raise KeyboardInterrupt

    return watch


def leave_a_part(server: Server, url: str, path: Path) -> int:
    """Fetch some of the file and return how much."""
    server.chunk = 10_000
    server.pause = 0.001
    with pytest.raises(KeyboardInterrupt):
        fetch(url, path, watch=stop_at(100_000))
    server.pause = 0
    assert names(path.parent) == ["a.bin.part", "a.bin.part.json"]
    part = (path.parent / "a.bin.part").read_bytes()
    assert 100_000 <= len(part) < len(BODY)
    assert part == BODY[: len(part)]
    server.asked.clear()
    return len(part)


@pytest.mark.parametrize("size", [0, 1, len(BODY)])
def test_whole_files(server: Server, url: str, path: Path, size: int) -> None:
    server.files["a.bin"] = BODY[:size]
    seen: list[tuple[str, int, int]] = []
    fetch(url, path, watch=lambda *told: seen.append(told))
    assert path.read_bytes() == BODY[:size]
    assert names(path.parent) == ["a.bin"]
    assert seen[0] == ("fetching", 0, size)
    assert seen[-1] == ("fetching", size, size)


def test_what_is_there_is_left_alone(server: Server, url: str, path: Path) -> None:
    path.write_text("mine")
    part_note(path).write_text("of a run that was killed at the last moment")
    fetch(url, path)
    assert path.read_text() == "mine"
    assert names(path.parent) == ["a.bin"]
    assert server.asked == []


def test_a_part_is_continued(server: Server, url: str, path: Path) -> None:
    done = leave_a_part(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [f"bytes={done}-"]
    assert server.conditions == [None, f'"{hashlib.md5(BODY).hexdigest()}"']
    assert names(path.parent) == ["a.bin"]


def test_dates_do_where_there_is_no_strong_tag(server: Server, url: str, path: Path) -> None:
    server.headers = {"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    done = leave_a_part(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [f"bytes={done}-"]


def test_cut_connections_are_taken_up(server: Server, url: str, path: Path) -> None:
    server.cuts = [100_000, 0, 50_000, 0, 0]
    fetch(url, path)
    assert path.read_bytes() == BODY
    steps = [100_000, 100_000, 150_000, 150_000, 150_000]
    assert ranges(server) == [None, *(f"bytes={step}-" for step in steps)]


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("body", [OTHER, OTHER[:200_000], OTHER + b"more"])
def test_a_file_that_changed_is_begun_anew(server: Server, url: str, path: Path, body: bytes, if_range: bool) -> None:
    leave_a_part(server, url, path)
    server.files["a.bin"] = body
    server.if_range = if_range
    fetch(url, path)
    assert path.read_bytes() == body
    assert names(path.parent) == ["a.bin"]


def test_a_file_of_another_size_is_another_though_its_tag_is_the_same(server: Server, url: str, path: Path) -> None:
    server.headers = {"ETag": '"always"'}
    leave_a_part(server, url, path)
    server.files["a.bin"] = OTHER + b"more"
    fetch(url, path)
    assert path.read_bytes() == OTHER + b"more"


def test_a_file_that_shrank_below_the_part(server: Server, url: str, path: Path) -> None:
    leave_a_part(server, url, path)
    server.files["a.bin"], server.if_range = OTHER[:1000], False
    fetch(url, path)
    assert path.read_bytes() == OTHER[:1000]
    assert server.asked[0][1] is not None  # answered by 416
    assert server.asked[-1][1] is None


def test_servers_without_ranges_begin_anew(server: Server, url: str, path: Path) -> None:
    leave_a_part(server, url, path)
    server.ranges = False
    server.cuts = [250_000]
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_servers_without_ranges_that_always_cut_are_given_up(server: Server, url: str, path: Path) -> None:
    server.ranges = False
    server.cuts = [200_000, 250_000] * 20
    with pytest.raises(UserError, match=r"^Cannot reach http.*: the connection was cut; run again to go on$"):
        fetch(url, path)
    assert len(server.asked) == fetching.ATTEMPTS + 2
    assert names(path.parent) == ["a.bin.part", "a.bin.part.json"]


@pytest.mark.parametrize("headers", [{"ETag": ""}, {"ETag": 'W/"weak"'}])
def test_files_that_cannot_be_recognised_are_begun_anew(
    server: Server, url: str, path: Path, headers: dict[str, str]
) -> None:
    server.headers = headers
    leave_a_part(server, url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [None]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 1}', "other"])
def test_a_part_with_a_wrong_note_is_no_part(server: Server, url: str, path: Path, note: str) -> None:
    leave_a_part(server, url, path)
    (path.parent / "a.bin.part").write_bytes(OTHER[:5000])
    if note == "other":
        note = json.dumps({**json.loads(part_note(path).read_text()), "url": "http://127.0.0.1/b.bin"})
    part_note(path).write_text(note)
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_temporary_refusals_are_waited_for(server: Server, url: str, path: Path, status: int) -> None:
    server.statuses = [status] * (fetching.ATTEMPTS - 1)
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_lasting_ones_are_reported(server: Server, url: str, path: Path) -> None:
    server.statuses = [503] * 100
    with pytest.raises(UserError, match=r"^Cannot reach .*a\.bin: 503 Service Unavailable; run again to go on$"):
        fetch(url, path)
    assert len(server.asked) == fetching.ATTEMPTS
    assert names(path.parent) == []


def test_pauses_grow(server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(fetching, "PAUSE", 1.0)
    monkeypatch.setattr(fetching, "TIMEOUT", 5.0)
    with pytest.raises(UserError, match="Connection refused"):
        fetch("http://127.0.0.1:1/a.bin", path)
    assert pauses == [1, 2, 4, 8, 16]
    assert names(path.parent) == []


def test_a_silent_connection_counts_as_dropped(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)
    server.chunk, server.pause = 150_000, 0.5
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert len(server.asked) > 1


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, DatasetNotFoundError, r"/a\.bin is not there \(404 Not Found\)$"),
        (410, DatasetNotFoundError, r"/a\.bin is not there \(410 Gone\)$"),
        (403, UserError, r"/a\.bin cannot be had: 403 Forbidden$"),
    ],
)
def test_refusals(server: Server, url: str, path: Path, status: int, error: type[UserError], message: str) -> None:
    server.statuses = [status]
    with pytest.raises(error, match=message):
        fetch(url, path)
    assert names(path.parent) == []
    assert len(server.asked) == 1


def test_files_of_unknown_size_are_refused(server: Server, url: str, path: Path) -> None:
    server.headers = {"Content-Length": ""}
    with pytest.raises(UserError, match="the server does not say how large the file is"):
        fetch(url, path)
    assert names(path.parent) == []


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_published_checksums(server: Server, url: str, path: Path, kind: str) -> None:
    expected = f"{kind}:{hashlib.new(kind, BODY).hexdigest()}"
    server.files["a.bin"] = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(CorruptFileError, match=rf"a\.bin: its {kind} is wrong; run again to fetch it anew$"):
        fetch(url, path, len(BODY), expected)
    assert names(path.parent) == []
    server.files["a.bin"] = BODY
    fetch(url, path, len(BODY), expected)
    assert path.read_bytes() == BODY


def test_a_wrong_size_is_seen_at_once(server: Server, url: str, path: Path) -> None:
    with pytest.raises(CorruptFileError, match="expected 5 bytes, but the server has 300000"):
        fetch(url, path, 5)
    assert names(path.parent) == []


def stated(kind: str, digest: bytes) -> str:
    return f"{kind}={base64.b64encode(digest).decode()}"


CRC = stated("crc32c", google_crc32c.value(BODY).to_bytes(4, "big"))
MD5 = stated("md5", hashlib.md5(BODY).digest())


@pytest.mark.parametrize("header", [CRC, MD5, f"{CRC}, {MD5}"])
def test_checksums_that_google_cloud_storage_states(server: Server, url: str, path: Path, header: str) -> None:
    server.headers = {"x-goog-hash": header}
    leave_a_part(server, url, path)
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


def test_wrong_bytes_in_a_part_are_found(server: Server, url: str, path: Path) -> None:
    leave_a_part(server, url, path)
    part = path.parent / "a.bin.part"
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(CorruptFileError, match="its md5 is wrong"):
        fetch(url, path, None, f"md5:{hashlib.md5(BODY).hexdigest()}")
    assert names(path.parent) == []


def test_a_full_disk_is_seen_before(server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 200_000))
    with pytest.raises(UserError, match=r"^Expected 1 MiB of free disk space in .*, but got 0 MiB; free some and run"):
        fetch(url, path)
    assert names(path.parent) == []


def test_a_part_needs_room_for_the_rest_only(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_a_part(server, url, path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 200_000))
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_a_disk_that_fills_up_leaves_a_part(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = fetching._write

    def fill(file: Any, block: bytes) -> None:
        write(file, block[: 100_000 - file.tell()])
        if file.tell() == 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_write", fill)
        with pytest.raises(UserError, match=r"^Cannot write .*a\.bin: No space left on device; run again to go on$"):
            fetch(url, path)
    assert names(path.parent) == ["a.bin.part", "a.bin.part.json"]
    fetch(url, path)
    assert path.read_bytes() == BODY
    assert ranges(server) == [None, "bytes=100000-"]


def test_two_at_once_are_refused(server: Server, url: str, path: Path) -> None:
    with file_lock(path.with_name("a.bin.part")):
        with pytest.raises(UserError, match=r"a\.bin is being downloaded by another process; let it finish$"):
            fetch(url, path)
        assert server.asked == []
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_file_systems_without_locks_do(server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    fetch(url, path)
    assert path.read_bytes() == BODY


def test_short_writes_are_completed() -> None:
    class Slow:
        written = b""

        def write(self, block: memoryview) -> int:
            self.written += bytes(block[:7])
            return min(7, len(block))

    slow = Slow()
    fetching._write(slow, BODY[:100])  # type: ignore[arg-type]
    assert slow.written == BODY[:100]


def test_names_of_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456789")  # for which the check value of CRC-32C is published
    for expected in ("crc32c:e3069283", "md5:25f9e794323b453885f5181f1b624d0b"):
        assert fetching._digest(tmp_path / "a", expected, lambda *_: None) == expected
