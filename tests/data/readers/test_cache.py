"""What is kept is made once, and again if anything it depends on has changed or it is damaged."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from object_discovery.data.readers import cache
from object_discovery.data.readers.cache import Arrays, cache_paths, cached_arrays, cached_file
from object_discovery.files import file_lock


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


def full(*_: object, **__: object) -> None:
    raise OSError("no space left")


def test_a_file_is_made_once_beside_its_source(source: Path) -> None:
    made = []

    def write(path: Path) -> None:
        made.append(path)
        path.write_text("counts.")

    path = cached_file(source, "k", "counts", write, whole)
    assert path is not None
    assert path == cached_file(source, "k", "counts", write, whole)
    assert path.read_text() == "counts."
    assert len(made) == 1
    assert names(source.parent) == ["a.h5", path.name]
    assert path.name.startswith("a.h5.")
    assert path.name.endswith(".counts.cache")  # not taken for a file of scenes
    assert cached_file(source, "other", "counts", write, whole) != path
    os.utime(source, (1, 1))
    assert cached_file(source, "k", "counts", write, whole) != path
    assert len(made) == 3


def test_half_a_file_is_made_again(source: Path) -> None:
    path = cached_file(source, "k", "counts", text("counts."), whole)
    assert path is not None
    path.write_text("cou")
    assert cached_file(source, "k", "counts", text("again."), whole) == path
    assert path.read_text() == "again."


def test_elsewhere_it_goes_to_the_users_folder_or_nowhere(source: Path, cache_folder: Path) -> None:
    def only_there(path: Path) -> None:
        path.write_text("half")
        if cache_folder not in path.parents:
            raise OSError("read-only")
        path.write_text("counts.")

    path = cached_file(source, "k", "counts", only_there, whole)
    assert path is not None
    assert path.parent == cache_folder
    assert names(source.parent) == ["a.h5"]

    def nowhere(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("disk full")

    assert cached_file(source, "other", "counts", nowhere, whole) is None
    assert names(source.parent) == ["a.h5"]
    assert names(cache_folder) == [path.name]


def test_other_errors_are_handed_on_and_nothing_is_left(source: Path) -> None:
    def damaged(path: Path) -> None:
        path.write_text("half")
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cached_file(source, "k", "counts", damaged, whole)
    assert names(source.parent) == ["a.h5"]


def test_files_of_the_same_name_share_nothing_in_the_users_folder(tmp_path: Path, cache_folder: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "data").mkdir(parents=True)
    one, two = (cache_paths(tmp_path / parent / "data" / "x.cache") for parent in ("a", "b"))
    assert [place[0] for place in (one, two)] == [tmp_path / parent / "data" / "x.cache" for parent in ("a", "b")]
    assert one[1] != two[1]
    assert one[1].parent == two[1].parent == cache_folder


def _make(source: Path, log: Path) -> str:
    def write(path: Path) -> None:
        path.write_text("half")
        time.sleep(0.3)
        with open(log, "a") as file:
            file.write("x")
        path.write_text("whole.")

    path = cached_file(source, "k", "counts", write, whole)
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
        monkeypatch.setattr("object_discovery.files.fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", full)
    made: list[str] = []

    def write(path: Path) -> None:
        made.append(path.name)
        path.write_text("counts.")

    path = cached_file(source, "k", "counts", write, whole)
    assert path is not None
    assert str(os.getpid()) in made[0]  # so that another process writes another file
    assert names(source.parent) == ["a.h5", path.name]


def test_file_lock_waits_for_others(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter(number: int) -> int:
        with file_lock(tmp_path / "new" / "a.cache"):
            inside.append(number)
            time.sleep(0.01)
            most = len(inside)
            inside.remove(number)
        return most

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(enter, range(2))) == [1, 1]
    assert names(tmp_path / "new") == []


def test_file_lock_where_nothing_can_be_written() -> None:
    with pytest.raises(OSError, match="null"), file_lock(Path("/dev/null/a.cache")):
        pass


def arrays() -> Arrays:
    return {
        "numbers": np.arange(12, dtype=np.int64).reshape(3, 4),
        "names": np.array([b"a.jpg", b"longer.jpg"]),
        "nothing": np.zeros((0, 2), np.uint8),
    }


class Made:
    """Makes arrays, and knows how often."""

    times = 0

    def __call__(self) -> Arrays:
        self.times += 1
        return arrays()


def check(held: Arrays) -> None:
    assert held.keys() == arrays().keys()
    for name, values in arrays().items():
        np.testing.assert_array_equal(held[name], values)
        assert held[name].dtype == values.dtype


def test_arrays_are_made_once_and_mapped(source: Path) -> None:
    make = Made()
    for _ in range(3):
        held = cached_arrays(source, "index", 1, make)
        check(held)
    assert make.times == 1
    assert isinstance(held["numbers"], np.memmap)
    (kept,) = set(source.parent.iterdir()) - {source}
    assert kept.name.startswith("a.h5.")
    assert kept.name.endswith(".index.cache")


def test_whatever_arrays_depend_on_makes_them_again(source: Path) -> None:
    make = Made()
    for kind, state in (("index", 1), ("index", 2), ("counts", 1)):
        cached_arrays(source, kind, state, make)
    assert make.times == 3
    os.utime(source, ns=(1, 1))
    cached_arrays(source, "index", 1, make)
    source.write_text("{ }")
    os.utime(source, ns=(1, 1))
    cached_arrays(source, "index", 1, make)
    assert make.times == 5


def test_what_is_kept_moves_with_the_folder(source: Path, tmp_path: Path) -> None:
    make = Made()
    cached_arrays(source, "index", 1, make)
    folder = source.parent.rename(tmp_path / "elsewhere")
    check(cached_arrays(folder / source.name, "index", 1, make))
    assert make.times == 1


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_half_the_arrays_are_made_again(source: Path, part: float) -> None:
    make = Made()
    cached_arrays(source, "index", 1, make)
    (kept,) = set(source.parent.iterdir()) - {source}
    content = kept.read_bytes()
    kept.write_bytes(content[: int(part * len(content))])
    for _ in range(2):
        check(cached_arrays(source, "index", 1, make))
    assert make.times == 2


@pytest.mark.parametrize("seed", range(30))
def test_damage_changes_no_shape_or_type(source: Path, seed: int) -> None:
    cached_arrays(source, "index", 1, arrays)
    (kept,) = set(source.parent.iterdir()) - {source}
    rng = np.random.default_rng(seed)
    with h5py.File(kept) as file:
        values = [(data.id.get_offset() or 0, data.id.get_storage_size()) for data in file.values()]
    content = bytearray(kept.read_bytes())
    place = int(rng.choice([i for i in range(len(content)) if not any(s <= i < s + n for s, n in values)]))
    content[place] ^= 1 << int(rng.integers(8))
    kept.write_bytes(content)
    check(cached_arrays(source, "index", 1, arrays))


def test_a_file_of_something_else_is_made_again(source: Path) -> None:
    cached_arrays(source, "index", 1, arrays)
    (kept,) = set(source.parent.iterdir()) - {source}
    kept.write_bytes(b"junk" * 999)
    check(cached_arrays(source, "index", 1, arrays))
    kept.unlink()
    kept.mkdir()
    check(cached_arrays(source, "index", 1, arrays))


def test_arrays_go_to_the_users_folder_or_stay_in_memory(
    source: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def refuse(new: Path, place: Path) -> None:
        if place.parent == source.parent:
            raise PermissionError
        replace(new, place)

    make = Made()
    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(2):
        check(cached_arrays(source, "index", 1, make))
    assert make.times == 1
    assert len(names(cache_folder)) == 1
    monkeypatch.setattr(os, "replace", full)
    for times in (2, 3):
        check(cached_arrays(source, "other", 1, make))
        assert make.times == times
    monkeypatch.setattr(Path, "mkdir", full)
    check(cached_arrays(source, "third", 1, make))
    assert names(source.parent) == ["a.h5"]
    assert len(names(cache_folder)) == 1


def test_an_error_of_the_making_is_handed_on(source: Path) -> None:
    for error in (OSError, ValueError):

        def fail(error: type[Exception] = error) -> Arrays:
            raise error("cannot be read")

        with pytest.raises(error, match="cannot be read"):
            cached_arrays(source, "index", 1, fail)
    assert names(source.parent) == ["a.h5"]


def test_several_at_once(source: Path) -> None:
    make = Made()
    with ThreadPoolExecutor(4) as pool:
        for held in pool.map(lambda _: cached_arrays(source, "index", 1, make), range(8)):
            check(held)
    assert make.times == 1
    assert len(names(source.parent)) == 2


def test_what_takes_long_is_announced(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cached_arrays(source, "index", 1, arrays)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "_PATIENCE", 0.01)

    def slow() -> Arrays:
        time.sleep(0.2)
        return arrays()

    for _ in range(2):
        cached_arrays(source, "counts", 1, slow)
    assert capsys.readouterr().err == f"Preparing the counts of {source}; this is done once\n"
