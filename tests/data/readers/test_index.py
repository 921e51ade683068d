import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from object_discovery.data.readers.index import cached_integers, file_state, list_files
from object_discovery.errors import CorruptFileError, DatasetNotFoundError

NAMES = [f"{number % 3}/{number:03d}.txt" for number in range(300)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of text files with one number each."""
    folder = tmp_path / "data"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(1000 + int(path.stem)))
    return folder


def read_numbers(folder: Path, names: list[str] = NAMES) -> tuple[list[int], list[str]]:
    """Return the numbers, and the files that were not in the cache."""
    names_read: list[str] = []

    def read(path: Path) -> int:
        names_read.append(f"{path.parent.name}/{path.name}")
        return int(path.read_text())

    return cached_integers(folder, names, read, "numbers").tolist(), sorted(names_read)


def test_files_of_all_subfolders_are_sorted_by_name(folder: Path) -> None:
    (folder / "299b.txt").write_text("")
    (folder / "0" / "deep").mkdir()
    (folder / "0" / "deep" / "001.txt").write_text("")
    (folder / "1" / "._001.txt").write_text("")
    (folder / "1" / "001.txt.part").write_text("")
    assert list_files(folder, r"\d+b?\.txt") == [*NAMES, "299b.txt"]
    assert list_files(folder, r"no such") == []


def test_missing_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12")
    with pytest.raises(DatasetNotFoundError, match=f"Cannot list {tmp_path}/none: No such file"):
        list_files(tmp_path / "none", ".*")
    with pytest.raises(DatasetNotFoundError, match=f"Cannot list {tmp_path}/file: Not a directory"):
        list_files(tmp_path / "file", ".*")
    with pytest.raises(DatasetNotFoundError, match=f"Cannot read {tmp_path}/none: No such file"):
        file_state(tmp_path / "none")
    with pytest.raises(DatasetNotFoundError, match=f"Cannot read {tmp_path}/none: No such file"):
        cached_integers(tmp_path, ["file", "none"], lambda path: 0, "numbers")


def test_each_file_is_read_once(folder: Path) -> None:
    assert read_numbers(folder) == ([1000 + number for number in range(300)], sorted(NAMES))
    assert read_numbers(folder) == ([1000 + number for number in range(300)], [])
    assert read_numbers(folder, NAMES[5:2:-1]) == ([1005, 1004, 1003], [])
    assert cached_integers(folder, NAMES[:1], lambda path: 7, "other").tolist() == [7]
    assert cached_integers(folder, [], lambda path: 7, "none").dtype == np.int64


def test_only_changed_and_new_files_are_read_again(folder: Path) -> None:
    read_numbers(folder)
    state = os.stat(folder / NAMES[3])
    (folder / NAMES[3]).write_text("12")  # another size at the same time
    os.utime(folder / NAMES[3], ns=(state.st_atime_ns, state.st_mtime_ns))
    state = os.stat(folder / NAMES[4])
    (folder / NAMES[4]).write_text("9999")  # the same size
    os.utime(folder / NAMES[4], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    (folder / NAMES[5]).unlink()
    (folder / "0" / "new.txt").write_text("5")
    names = [*NAMES[:5], *NAMES[6:], "0/new.txt"]
    numbers, names_read = read_numbers(folder, names)
    assert numbers == [1000, 1001, 1002, 12, 9999, *range(1006, 1300), 5]
    assert names_read == sorted([NAMES[3], NAMES[4], "0/new.txt"])
    assert read_numbers(folder, names) == (numbers, [])


def test_the_cache_stays_valid_when_the_folder_is_moved(folder: Path, tmp_path: Path) -> None:
    read_numbers(folder)
    assert read_numbers(folder.rename(tmp_path / "elsewhere"))[1] == []


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_cache_is_written_again(folder: Path, fraction: float) -> None:
    expected = read_numbers(folder)[0]
    cache_file = folder / "object_discovery.numbers.npz"
    content = cache_file.read_bytes()
    cache_file.write_bytes(content[: int(fraction * len(content))])
    assert read_numbers(folder) == (expected, sorted(NAMES))
    assert read_numbers(folder) == (expected, [])


def test_damaged_and_other_cache_files_are_written_again(folder: Path) -> None:
    expected = read_numbers(folder)[0]
    cache_file = folder / "object_discovery.numbers.npz"
    content = bytearray(cache_file.read_bytes())
    content[len(content) // 2] ^= 1
    cache_file.write_bytes(content)
    assert read_numbers(folder) == (expected, sorted(NAMES))
    with open(cache_file, "wb") as file:
        np.savez(file, names=np.array(NAMES))
    assert read_numbers(folder) == (expected, sorted(NAMES))
    keys: dict[str, Any] = {key: np.array([1]) for key in ("names", "sizes", "times")}
    invalid_caches: tuple[dict[str, Any], ...] = (
        {"version": np.array(2), "numbers": np.ones(1)},
        {"version": np.array(1), "numbers": np.ones(2)},
    )
    for invalid in invalid_caches:
        with open(cache_file, "wb") as file:
            np.savez(file, **keys, **invalid)
        assert read_numbers(folder) == (expected, sorted(NAMES))


def test_the_users_cache_folder_is_used_where_the_data_folder_is_not_writable(folder: Path, cache: Path) -> None:
    (folder / "object_discovery.numbers.npz").mkdir()  # no file can have this name
    expected = read_numbers(folder)[0]
    (cache_file,) = (cache / "object_discovery").iterdir()
    assert cache_file.name.startswith("data.")
    assert read_numbers(folder) == (expected, [])
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "object_discovery.numbers.npz"]


def test_without_a_writable_folder_nothing_is_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    (folder / "object_discovery.numbers.npz").mkdir()
    expected = [1000 + number for number in range(300)]
    assert read_numbers(folder) == (expected, sorted(NAMES))
    assert read_numbers(folder) == (expected, sorted(NAMES))


def test_errors_are_raised_and_nothing_is_cached(folder: Path) -> None:
    def read(path: Path) -> int:
        raise CorruptFileError(f"{path.name} is damaged")

    with pytest.raises(CorruptFileError, match=r"000.txt is damaged"):
        cached_integers(folder, NAMES, read, "numbers")
    assert not list(folder.glob("*numbers*"))


def test_concurrent_writers_never_leave_an_incomplete_file(folder: Path) -> None:
    names, expected = NAMES[:50], list(range(1000, 1050))

    def write_and_read(writer: int) -> list[bool]:
        correct = []
        for seconds in range(10):
            os.utime(folder / NAMES[writer], (seconds, seconds))  # the cache must be written again
            paths_read: list[Path] = []

            def read(path: Path, paths_read: list[Path] = paths_read) -> int:
                paths_read.append(path)
                return 1000 + int(path.stem)

            numbers = cached_integers(folder, names, read, "numbers").tolist()
            correct.append(numbers == expected and len(paths_read) <= 4)
        return correct

    read_numbers(folder, names)
    with ThreadPoolExecutor(4) as pool:
        assert all(all(correct) for correct in pool.map(write_and_read, range(4)))
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "object_discovery.numbers.npz"]
