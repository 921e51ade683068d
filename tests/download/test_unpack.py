from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from object_discovery.download.unpack import unpack
from object_discovery.errors import CorruptFileError, UserError

from .archives import make_tar, make_zip, tree

MEMBERS = {"set/a.txt": b"first", "set/deep/er/b.bin": bytes(200_000), "set/empty": b""}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Folder deep enough that files outside of it are detected."""
    return tmp_path / "outer" / "root"


def write_archive(target: Path, content: bytes) -> Path:
    target.mkdir(parents=True)
    archive = target / "a.archive"
    archive.write_bytes(content)
    return archive


def assert_nothing_unpacked(target: Path, archive: Path) -> None:
    outer = target.parents[1]
    assert [path for path in outer.rglob("*") if not path.is_dir() or path.is_symlink()] == [archive]
    assert sorted(path.name for path in target.iterdir()) == [archive.name]


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_archives_are_unpacked(target: Path, kind: str, filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not filtered and hasattr(tarfile, "data_filter"):  # missing in early patch releases of Python 3.10
        monkeypatch.delattr(tarfile, "data_filter")
    archive = write_archive(target, make_zip(MEMBERS) if kind == "zip" else make_tar(MEMBERS, kind.replace("tar", "")))
    progress: list[tuple[str, int, int]] = []
    assert unpack(archive, target, lambda *values: progress.append(values)) == ["set"]
    archive.unlink()
    assert tree(target) == MEMBERS
    assert [path.name for path in target.iterdir()] == ["set"]
    assert all(stage == "unpacking" and 0 <= done <= size for stage, done, size in progress)
    assert len(progress) == len(MEMBERS)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..", "..\\x", "C:\\x", "C:x", "\\x", "a/.."])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_outside_the_folder_are_refused(target: Path, name: str, kind: str) -> None:
    members = {"fine": b"1", name: b"2"}
    archive = write_archive(target, make_zip(members) if kind == "zip" else make_tar(members))
    with pytest.raises(CorruptFileError, match=r"a\.archive: refused, as its member .* leads out of the folder"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


@pytest.mark.parametrize("link", ["../../x", "/etc", "sub/../../x", "..", "C:\\x"])
@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_outside_the_folder_are_refused(target: Path, link: str, type_: bytes) -> None:
    extra = [{"name": "door", "type": type_, "linkname": link}]
    archive = write_archive(target, make_tar({"door/x": b"2"}, extra=extra))
    with pytest.raises(CorruptFileError, match=r"refused, as its link to .* leads out of the folder"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_links_inside_the_folder_are_unpacked(target: Path, filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not filtered and hasattr(tarfile, "data_filter"):
        monkeypatch.delattr(tarfile, "data_filter")
    extra: list[dict[str, Any]] = [
        {"name": "set/a.txt"},
        {"name": "set/soft", "type": tarfile.SYMTYPE, "linkname": "a.txt"},
        {"name": "set/hard", "type": tarfile.LNKTYPE, "linkname": "set/a.txt"},
    ]
    archive = write_archive(target, make_tar({"set/a.txt": b"first"}, extra=extra))
    unpack(archive, target)
    archive.unlink()
    assert tree(target) == {f"set/{name}": b"first" for name in ("a.txt", "soft", "hard")}
    assert (target / "set" / "soft").is_symlink()


@pytest.mark.parametrize("type_", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_a_tar_are_refused(target: Path, type_: bytes) -> None:
    archive = write_archive(target, make_tar({"fine": b"1"}, extra=[{"name": "device", "type": type_}]))
    with pytest.raises(CorruptFileError, match="refused, as its member 'device' is no file"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(target: Path, kind: int) -> None:
    members = {"fine": b"1", "odd": b"/etc/passwd"}
    archive = write_archive(target, make_zip(members, {"odd": kind | 0o777}))
    with pytest.raises(CorruptFileError, match="refused, as its member 'odd' is no file"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


def damage(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


NOISE = {"noise": os.urandom(5000)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive at all",
        make_tar(NOISE)[:2000],
        make_tar(NOISE, "bz2")[:2000],
        make_tar(NOISE, "xz")[:2000],
        make_tar(NOISE, "")[:2000],
        make_zip(NOISE)[:2000],
        damage(make_zip(NOISE), 1000),
        damage(make_tar(NOISE), 3000),
        damage(make_tar(NOISE, "bz2"), 3000),
        damage(make_tar(NOISE, "xz"), 3000),
    ],
    ids=range(11),
)
def test_damaged_archives_are_refused(target: Path, content: bytes) -> None:
    archive = write_archive(target, content)
    with pytest.raises(
        CorruptFileError, match=r"a\.archive: cannot be unpacked \(.+\); remove it and run again$"
    ) as caught:
        unpack(archive, target)
    assert "\n" not in str(caught.value)
    assert_nothing_unpacked(target, archive)


def test_encrypted_archives_are_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(make_zip({"a": b"1"}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    archive = write_archive(target, bytes(content))
    with pytest.raises(CorruptFileError, match="password required"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


def test_archives_are_unpacked_into_the_same_folder(target: Path) -> None:
    for number in range(3):
        archive = target / f"part{number}.tar.gz"
        target.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(
            make_tar({f"set/{number}/a": b"%d" % number, "set/all": b"%d" % number, f"top{number}": b""})
        )
        assert unpack(archive, target) == ["set", f"top{number}"]
        archive.unlink()
    expected = {**{f"set/{n}/a": b"%d" % n for n in range(3)}, **{f"top{n}": b"" for n in range(3)}, "set/all": b"2"}
    assert tree(target) == expected


def test_symbolic_link_of_the_target_folder_is_followed(target: Path, tmp_path: Path) -> None:
    archive = write_archive(target, make_tar(MEMBERS))
    (tmp_path / "big_disk").mkdir()
    (target / "set").symlink_to(tmp_path / "big_disk")
    unpack(archive, target)
    assert tree(tmp_path / "big_disk") == {name.removeprefix("set/"): content for name, content in MEMBERS.items()}


def test_leftovers_of_a_killed_run_are_removed(target: Path) -> None:
    archive = write_archive(target, make_zip(MEMBERS))
    leftover = target / ".a.archive.unpacking"
    leftover.mkdir()
    (leftover / "half").write_text("half")
    unpack(archive, target / "sub")
    assert tree(target / "sub") == MEMBERS
    assert sorted(path.name for path in target.iterdir()) == ["a.archive", "sub"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_full_disk_is_refused_before_unpacking(target: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_archive(target, make_zip(MEMBERS) if kind == "zip" else make_tar(MEMBERS, ""))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 150_000))
    with pytest.raises(UserError, match="Expected 1 MiB of free disk space"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_disk_full_during_unpacking_leaves_no_files(target: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_archive(target, make_zip(MEMBERS) if kind == "zip" else make_tar(MEMBERS))

    def raise_disk_full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile if kind == "zip" else tarfile.TarFile, "extract", raise_disk_full)
    with pytest.raises(UserError, match=r"^Cannot unpack .*a\.archive: No space left on device; run again to go on$"):
        unpack(archive, target)
    assert_nothing_unpacked(target, archive)


def test_interruption_leaves_no_files(target: Path) -> None:
    archive = write_archive(target, make_zip(MEMBERS))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, target, interrupt)
    assert_nothing_unpacked(target, archive)
