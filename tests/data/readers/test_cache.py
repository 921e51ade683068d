"""Cache files are computed once, and again if they are damaged or anything they depend on has changed."""

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


def is_complete(path: Path) -> bool:
    return path.is_file() and path.read_text().endswith(".")


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def raise_disk_full(*_: object, **__: object) -> None:
    raise OSError("no space left")


def test_a_file_is_written_once_next_to_its_source(source: Path) -> None:
    written = []

    def write(path: Path) -> None:
        written.append(path)
        path.write_text("counts.")

    path = cached_file(source, "k", "counts", write, is_complete)
    assert path is not None
    assert path == cached_file(source, "k", "counts", write, is_complete)
    assert path.read_text() == "counts."
    assert len(written) == 1
    assert names(source.parent) == ["a.h5", path.name]
    assert path.name.startswith("a.h5.")
    assert path.name.endswith(".counts.cache")  # not mistaken for a file of scenes
    assert cached_file(source, "other", "counts", write, is_complete) != path
    os.utime(source, (1, 1))
    assert cached_file(source, "k", "counts", write, is_complete) != path
    assert len(written) == 3


def test_an_incomplete_file_is_written_again(source: Path) -> None:
    path = cached_file(source, "k", "counts", text("counts."), is_complete)
    assert path is not None
    path.write_text("cou")
    assert cached_file(source, "k", "counts", text("again."), is_complete) == path
    assert path.read_text() == "again."


def test_without_write_permission_the_users_cache_folder_is_used_or_none(source: Path, cache_folder: Path) -> None:
    def write_to_cache_folder(path: Path) -> None:
        path.write_text("half")
        if cache_folder not in path.parents:
            raise OSError("read-only")
        path.write_text("counts.")

    path = cached_file(source, "k", "counts", write_to_cache_folder, is_complete)
    assert path is not None
    assert path.parent == cache_folder
    assert names(source.parent) == ["a.h5"]

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("disk full")

    assert cached_file(source, "other", "counts", fail, is_complete) is None
    assert names(source.parent) == ["a.h5"]
    assert names(cache_folder) == [path.name]


def test_other_errors_are_raised_and_leave_no_file(source: Path) -> None:
    def fail_on_damage(path: Path) -> None:
        path.write_text("half")
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cached_file(source, "k", "counts", fail_on_damage, is_complete)
    assert names(source.parent) == ["a.h5"]


def test_files_of_the_same_name_have_different_paths_in_the_users_cache_folder(
    tmp_path: Path, cache_folder: Path
) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "data").mkdir(parents=True)
    first, second = (cache_paths(tmp_path / parent / "data" / "x.cache") for parent in ("a", "b"))
    assert [paths[0] for paths in (first, second)] == [tmp_path / parent / "data" / "x.cache" for parent in ("a", "b")]
    assert first[1] != second[1]
    assert first[1].parent == second[1].parent == cache_folder


def _write_slowly(source: Path, log: Path) -> str:
    def write(path: Path) -> None:
        path.write_text("half")
        time.sleep(0.3)
        with open(log, "a") as file:
            file.write("x")
        path.write_text("complete.")

    path = cached_file(source, "k", "counts", write, is_complete)
    assert path is not None
    return path.read_text()


def test_of_two_processes_one_writes_the_file(source: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        texts = pool.starmap(_write_slowly, [(source, tmp_path / "log")] * 2, chunksize=1)
    assert texts == ["complete.", "complete."]
    assert (tmp_path / "log").read_text() == "x"
    assert len(names(source.parent)) == 2


@pytest.mark.parametrize("locks", ["missing", "refused"])
def test_file_systems_without_locks_use_a_temporary_file_per_process(
    source: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    if locks == "missing":
        monkeypatch.setattr("object_discovery.files.fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", raise_disk_full)
    written: list[str] = []

    def write(path: Path) -> None:
        written.append(path.name)
        path.write_text("counts.")

    path = cached_file(source, "k", "counts", write, is_complete)
    assert path is not None
    assert str(os.getpid()) in written[0]
    assert names(source.parent) == ["a.h5", path.name]


def test_file_lock_is_exclusive(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter(number: int) -> int:
        with file_lock(tmp_path / "new" / "a.cache"):
            inside.append(number)
            time.sleep(0.01)
            num_inside = len(inside)
            inside.remove(number)
        return num_inside

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(enter, range(2))) == [1, 1]
    assert names(tmp_path / "new") == []


def test_file_lock_in_an_unwritable_folder_raises() -> None:
    with pytest.raises(OSError, match="null"), file_lock(Path("/dev/null/a.cache")):
        pass


def arrays() -> Arrays:
    return {
        "numbers": np.arange(12, dtype=np.int64).reshape(3, 4),
        "names": np.array([b"a.jpg", b"longer.jpg"]),
        "nothing": np.zeros((0, 2), np.uint8),
    }


class CountingFunction:
    """Computes arrays and counts its calls."""

    calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return arrays()


def check(cached: Arrays) -> None:
    assert cached.keys() == arrays().keys()
    for name, values in arrays().items():
        np.testing.assert_array_equal(cached[name], values)
        assert cached[name].dtype == values.dtype


def test_arrays_are_computed_once_and_memory_mapped(source: Path) -> None:
    compute = CountingFunction()
    for _ in range(3):
        result = cached_arrays(source, "index", 1, compute)
        check(result)
    assert compute.calls == 1
    assert isinstance(result["numbers"], np.memmap)
    (cache_file,) = set(source.parent.iterdir()) - {source}
    assert cache_file.name.startswith("a.h5.")
    assert cache_file.name.endswith(".index.cache")


def test_arrays_are_computed_again_when_kind_state_size_or_time_change(source: Path) -> None:
    compute = CountingFunction()
    for kind, state in (("index", 1), ("index", 2), ("counts", 1)):
        cached_arrays(source, kind, state, compute)
    assert compute.calls == 3
    os.utime(source, ns=(1, 1))
    cached_arrays(source, "index", 1, compute)
    source.write_text("{ }")
    os.utime(source, ns=(1, 1))
    cached_arrays(source, "index", 1, compute)
    assert compute.calls == 5


def test_cache_files_stay_valid_when_the_folder_is_moved(source: Path, tmp_path: Path) -> None:
    compute = CountingFunction()
    cached_arrays(source, "index", 1, compute)
    folder = source.parent.rename(tmp_path / "elsewhere")
    check(cached_arrays(folder / source.name, "index", 1, compute))
    assert compute.calls == 1


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_arrays_are_computed_again(source: Path, fraction: float) -> None:
    compute = CountingFunction()
    cached_arrays(source, "index", 1, compute)
    (cache_file,) = set(source.parent.iterdir()) - {source}
    content = cache_file.read_bytes()
    cache_file.write_bytes(content[: int(fraction * len(content))])
    for _ in range(2):
        check(cached_arrays(source, "index", 1, compute))
    assert compute.calls == 2


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_of_the_metadata_changes_no_shape_or_type(source: Path, seed: int) -> None:
    cached_arrays(source, "index", 1, arrays)
    (cache_file,) = set(source.parent.iterdir()) - {source}
    rng = np.random.default_rng(seed)
    with h5py.File(cache_file) as file:
        values = [(data.id.get_offset() or 0, data.id.get_storage_size()) for data in file.values()]
    content = bytearray(cache_file.read_bytes())
    position = int(rng.choice([i for i in range(len(content)) if not any(s <= i < s + n for s, n in values)]))
    content[position] ^= 1 << int(rng.integers(8))
    cache_file.write_bytes(content)
    check(cached_arrays(source, "index", 1, arrays))


def test_other_files_and_folders_in_place_of_the_cache_file_are_ignored(source: Path) -> None:
    cached_arrays(source, "index", 1, arrays)
    (cache_file,) = set(source.parent.iterdir()) - {source}
    cache_file.write_bytes(b"junk" * 999)
    check(cached_arrays(source, "index", 1, arrays))
    cache_file.unlink()
    cache_file.mkdir()
    check(cached_arrays(source, "index", 1, arrays))


def test_without_write_permission_arrays_are_cached_in_the_users_folder_or_in_memory(
    source: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def refuse(temporary: Path, path: Path) -> None:
        if path.parent == source.parent:
            raise PermissionError
        replace(temporary, path)

    compute = CountingFunction()
    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(2):
        check(cached_arrays(source, "index", 1, compute))
    assert compute.calls == 1
    assert len(names(cache_folder)) == 1
    monkeypatch.setattr(os, "replace", raise_disk_full)
    for calls in (2, 3):
        check(cached_arrays(source, "other", 1, compute))
        assert compute.calls == calls
    monkeypatch.setattr(Path, "mkdir", raise_disk_full)
    check(cached_arrays(source, "third", 1, compute))
    assert names(source.parent) == ["a.h5"]
    assert len(names(cache_folder)) == 1


def test_errors_of_the_computation_are_raised(source: Path) -> None:
    for error in (OSError, ValueError):

        def fail(error: type[Exception] = error) -> Arrays:
            raise error("cannot be read")

        with pytest.raises(error, match="cannot be read"):
            cached_arrays(source, "index", 1, fail)
    assert names(source.parent) == ["a.h5"]


def test_of_several_threads_one_computes_the_arrays(source: Path) -> None:
    compute = CountingFunction()
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: cached_arrays(source, "index", 1, compute), range(8)):
            check(result)
    assert compute.calls == 1
    assert len(names(source.parent)) == 2


def test_slow_computations_are_logged_once(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cached_arrays(source, "index", 1, arrays)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "_LOG_AFTER", 0.01)

    def slow() -> Arrays:
        time.sleep(0.2)
        return arrays()

    for _ in range(2):
        cached_arrays(source, "counts", 1, slow)
    assert capsys.readouterr().err == f"Preparing the counts of {source}; this is done once\n"
