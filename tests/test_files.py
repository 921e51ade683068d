from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from object_discovery.errors import UserError
from object_discovery.files import atomic_write, check_writable, file_lock, lock_path


def test_atomic_write_keeps_old_file_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_midway() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_replaces_files_and_creates_folders(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_write(tmp_path / "a" / "b" / "file.txt") as temporary:
            temporary.write_text(text)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file.txt"]
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "new"


def test_missing_folder_is_writable_and_not_created(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "out")
    assert list(tmp_path.iterdir()) == []


def test_path_through_a_file_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"`out` to be writable, but .*file is no folder"):
        check_writable(tmp_path / "file" / "deeper", "out")


def test_folder_without_write_permission_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root has all permissions
    with pytest.raises(UserError, match=r"`out` to be writable, but writing to .* is not permitted"):
        check_writable(tmp_path, "out")


def acquire_lock(path: Path, ready: Path) -> None:
    with file_lock(path):
        ready.touch()
        time.sleep(60)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_lock_is_exclusive_and_released_when_the_owner_is_killed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=acquire_lock, args=(tmp_path / "a", tmp_path / "ready")
    )
    process.start()
    wait_for(tmp_path / "ready")
    with file_lock(tmp_path / "a", wait=False) as acquired:
        assert not acquired
    assert lock_path(tmp_path / "a").exists()  # it belongs to the other process
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with file_lock(tmp_path / "a", wait=False) as acquired:
        assert acquired
    assert not lock_path(tmp_path / "a").exists()


def increment_counter(path: Path) -> None:
    for _ in range(50):
        with file_lock(path) as acquired:
            assert acquired
            path.write_text(str(int(path.read_text()) + 1))


def test_concurrent_locks_are_exclusive_while_lock_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    processes = [
        multiprocessing.get_context("fork").Process(target=increment_counter, args=(tmp_path / "count",))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "150"
