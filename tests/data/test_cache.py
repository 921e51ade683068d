"""Arrays are made once, and again if anything they depend on has changed or a cache is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from object_discovery.data import cache
from object_discovery.data.cache import Arrays, cached_arrays


def arrays() -> Arrays:
    return {
        "numbers": np.arange(12, dtype=np.int64).reshape(3, 4),
        "names": np.array([b"a.jpg", b"longer.jpg"]),
        "nothing": np.zeros((0, 2), np.uint8),
    }


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file.json").write_text("{}")
    return tmp_path / "data" / "file.json"


@pytest.fixture
def made() -> list[int]:
    return []


@pytest.fixture
def make(made: list[int]) -> Callable[[], Arrays]:
    def make() -> Arrays:
        made.append(1)
        return arrays()

    return make


def check(held: Arrays) -> None:
    assert held.keys() == arrays().keys()
    for name, values in arrays().items():
        np.testing.assert_array_equal(held[name], values)
        assert held[name].dtype == values.dtype


def test_arrays_are_made_once(path: Path, make: Callable[[], Arrays], made: list[int]) -> None:
    for _ in range(3):
        held = cached_arrays(path, "index", 1, make)
        check(held)
    assert len(made) == 1
    assert isinstance(held["numbers"], np.memmap)
    (kept,) = set(path.parent.iterdir()) - {path}
    assert kept.name.startswith("file.json.")
    assert kept.name.endswith(".index.h5")


def test_whatever_they_depend_on_makes_them_again(
    path: Path, make: Callable[[], Arrays], made: list[int], tmp_path: Path
) -> None:
    cached_arrays(path, "index", 1, make)
    cached_arrays(path, "index", 2, make)
    cached_arrays(path, "counts", 1, make)
    os.utime(path, ns=(1, 1))
    cached_arrays(path, "index", 1, make)
    path.write_text("{ }")
    os.utime(path, ns=(1, 1))
    cached_arrays(path, "index", 1, make)
    path.parent.rename(tmp_path / "elsewhere")
    cached_arrays(tmp_path / "elsewhere" / "file.json", "index", 1, make)
    assert len(made) == 6


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_damaged_cache_is_made_again(path: Path, make: Callable[[], Arrays], made: list[int], kept: float) -> None:
    cached_arrays(path, "index", 1, make)
    (cache_file,) = set(path.parent.iterdir()) - {path}
    content = cache_file.read_bytes()
    cache_file.write_bytes(content[: int(kept * len(content))])
    check(cached_arrays(path, "index", 1, make))
    check(cached_arrays(path, "index", 1, make))
    assert len(made) == 2


def test_the_user_s_folder_is_the_second_place(
    path: Path, make: Callable[[], Arrays], made: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = cache._cache_files
    monkeypatch.setattr(cache, "_cache_files", lambda *given: [Path("/dev/null/x.h5"), *files(*given)[1:]])
    for _ in range(2):
        check(cached_arrays(path, "index", 1, make))
    assert len(made) == 1
    assert [file.suffix for file in (tmp_path / "cache" / "object_discovery").iterdir()] == [".h5"]
    assert list(path.parent.iterdir()) == [path]


def test_nothing_can_be_written(path: Path, make: Callable[[], Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_cache_files", lambda *_: [Path("/dev/null/x.h5")])
    check(cached_arrays(path, "index", 1, make))


def test_a_failure_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("object_discovery.data.cache.os.replace", full)
    check(cached_arrays(path, "index", 1, arrays))
    assert list(path.parent.iterdir()) == [path]


def test_several_at_once(path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for held in pool.map(lambda _: cached_arrays(path, "index", 1, arrays), range(8)):
            check(held)
    assert len(list(path.parent.iterdir())) == 2
