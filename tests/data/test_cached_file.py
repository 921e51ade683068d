import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from object_discovery.data import cached_file as module
from object_discovery.data.cached_file import cached_file


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "object_discovery"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "a.h5"
    path.parent.mkdir()
    path.write_text("scenes")
    return path


def whole(path: Path) -> bool:
    return path.is_file() and path.read_text().endswith(".")


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_made_once_beside_the_source(source: Path) -> None:
    made = []

    def write(path: Path) -> None:
        made.append(path)
        path.write_text("counts.")

    path = cached_file(source, "k", "txt", write, whole)
    assert path is not None
    assert path == cached_file(source, "k", "txt", write, whole)
    assert path.read_text() == "counts."
    assert len(made) == 1
    assert names(source.parent) == ["a.h5", path.name]
    assert cached_file(source, "other", "txt", write, whole) != path
    os.utime(source, (1, 1))
    assert cached_file(source, "k", "txt", write, whole) != path
    assert len(made) == 3


def test_half_a_file_is_made_again(source: Path) -> None:
    path = cached_file(source, "k", "txt", text("counts."), whole)
    assert path is not None
    path.write_text("cou")
    assert cached_file(source, "k", "txt", text("again."), whole) == path
    assert path.read_text() == "again."


def test_elsewhere_it_goes_to_the_users_folder_or_nowhere(source: Path, cache_folder: Path) -> None:
    def only_there(path: Path) -> None:
        path.write_text("half")
        if cache_folder not in path.parents:
            raise OSError("read-only")
        path.write_text("counts.")

    path = cached_file(source, "k", "txt", only_there, whole)
    assert path is not None
    assert path.parent == cache_folder
    assert names(source.parent) == ["a.h5"]

    def nowhere(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("disk full")

    assert cached_file(source, "other", "txt", nowhere, whole) is None
    assert names(source.parent) == ["a.h5"]
    assert names(cache_folder) == [path.name]


def test_other_errors_are_handed_on_and_nothing_is_left(source: Path) -> None:
    def damaged(path: Path) -> None:
        path.write_text("half")
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cached_file(source, "k", "txt", damaged, whole)
    assert names(source.parent) == ["a.h5"]


def _make(source: Path, log: Path) -> str:
    def write(path: Path) -> None:
        path.write_text("half")
        time.sleep(0.3)
        with open(log, "a") as file:
            file.write("x")
        path.write_text("whole.")

    path = cached_file(source, "k", "txt", write, whole)
    assert path is not None
    return path.read_text()


def test_two_processes_make_it_once(source: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        texts = pool.starmap(_make, [(source, tmp_path / "log")] * 2, chunksize=1)
    assert texts == ["whole.", "whole."]
    assert (tmp_path / "log").read_text() == "x"
    assert len(names(source.parent)) == 2


@pytest.mark.parametrize("how", ["missing", "refused"])
def test_without_locks(source: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "missing":
        monkeypatch.setattr(module, "fcntl", None)
    else:

        def refuse(*_: object) -> None:
            raise OSError("no locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
    made: list[str] = []

    def write(path: Path) -> None:
        made.append(path.name)
        path.write_text("counts.")

    path = cached_file(source, "k", "txt", write, whole)
    assert path is not None
    assert made == [f"{path.name}.{os.getpid()}.new"]
    assert names(source.parent) == ["a.h5", path.name]
