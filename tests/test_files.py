import os
from pathlib import Path

import pytest

from object_discovery.errors import UserError
from object_discovery.files import check_writable, write_beside


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_midway() -> None:
        with write_beside(path) as beside:
            beside.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_replaced_and_folders_made(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with write_beside(tmp_path / "a" / "b" / "file.txt") as beside:
            beside.write_text(text)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file.txt"]
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "new"


def test_folders_that_do_not_exist_yet_are_writable_and_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"`out` to be writable, but .*file is no folder"):
        check_writable(tmp_path / "file" / "deeper", "out")


def test_folders_without_permission_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"`out` to be writable, but writing to .* is not permitted"):
        check_writable(tmp_path, "out")
