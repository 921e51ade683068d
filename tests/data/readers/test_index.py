import os
from collections.abc import Callable
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
    """A folder of files, each of which holds a number."""
    folder = tmp_path / "data"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(1000 + int(path.stem)))
    return folder


def reader() -> tuple[Callable[[Path], int], list[str]]:
    """Something that reads a number, and the list of the files it has read."""
    read: list[str] = []

    def number(path: Path) -> int:
        read.append(f"{path.parent.name}/{path.name}")
        return int(path.read_text())

    return number, read


def read_again(folder: Path, names: list[str] = NAMES) -> tuple[list[int], list[str]]:
    """The numbers, and the files that were read for them."""
    number, read = reader()
    return cached_integers(folder, names, number, "numbers").tolist(), sorted(read)


def test_files_are_listed_by_name_over_all_subfolders(folder: Path) -> None:
    (folder / "299b.txt").write_text("")
    (folder / "0" / "deep").mkdir()
    (folder / "0" / "deep" / "001.txt").write_text("")
    (folder / "1" / "._001.txt").write_text("")
    (folder / "1" / "001.txt.part").write_text("")
    assert list_files(folder, r"\d+b?\.txt") == [*NAMES, "299b.txt"]
    assert list_files(folder, r"no such") == []


def test_folders_and_files_that_are_missing(tmp_path: Path) -> None:
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
    assert read_again(folder) == ([1000 + number for number in range(300)], sorted(NAMES))
    assert read_again(folder) == ([1000 + number for number in range(300)], [])
    assert read_again(folder, NAMES[5:2:-1]) == ([1005, 1004, 1003], [])
    assert cached_integers(folder, NAMES[:1], lambda path: 7, "other").tolist() == [7]
    assert cached_integers(folder, [], lambda path: 7, "none").dtype == np.int64


def test_files_that_changed_or_were_added_are_read_again(folder: Path) -> None:
    read_again(folder)
    state = os.stat(folder / NAMES[3])
    (folder / NAMES[3]).write_text("12")  # another size at the same time
    os.utime(folder / NAMES[3], ns=(state.st_atime_ns, state.st_mtime_ns))
    state = os.stat(folder / NAMES[4])
    (folder / NAMES[4]).write_text("9999")  # the same size
    os.utime(folder / NAMES[4], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    (folder / NAMES[5]).unlink()
    (folder / "0" / "new.txt").write_text("5")
    names = [*NAMES[:5], *NAMES[6:], "0/new.txt"]
    numbers, read = read_again(folder, names)
    assert numbers == [1000, 1001, 1002, 12, 9999, *range(1006, 1300), 5]
    assert read == sorted([NAMES[3], NAMES[4], "0/new.txt"])
    assert read_again(folder, names) == (numbers, [])


def test_numbers_move_with_the_folder(folder: Path, tmp_path: Path) -> None:
    read_again(folder)
    assert read_again(folder.rename(tmp_path / "elsewhere"))[1] == []


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_half_a_file_of_numbers_is_written_again(folder: Path, part: float) -> None:
    expected = read_again(folder)[0]
    kept = folder / "object_discovery.numbers.npz"
    content = kept.read_bytes()
    kept.write_bytes(content[: int(part * len(content))])
    assert read_again(folder) == (expected, sorted(NAMES))
    assert read_again(folder) == (expected, [])


def test_damaged_and_foreign_files_of_numbers_are_written_again(folder: Path) -> None:
    expected = read_again(folder)[0]
    kept = folder / "object_discovery.numbers.npz"
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    assert read_again(folder) == (expected, sorted(NAMES))
    with open(kept, "wb") as file:
        np.savez(file, names=np.array(NAMES))
    assert read_again(folder) == (expected, sorted(NAMES))
    one: dict[str, Any] = {key: np.array([1]) for key in ("names", "sizes", "times")}
    wrongs: tuple[dict[str, Any], ...] = (
        {"version": np.array(2), "numbers": np.ones(1)},
        {"version": np.array(1), "numbers": np.ones(2)},
    )
    for wrong in wrongs:
        with open(kept, "wb") as file:
            np.savez(file, **one, **wrong)
        assert read_again(folder) == (expected, sorted(NAMES))


def test_numbers_go_to_the_cache_folder_where_the_data_cannot_be_written(folder: Path, cache: Path) -> None:
    (folder / "object_discovery.numbers.npz").mkdir()  # so that no file can get this name
    expected = read_again(folder)[0]
    (kept,) = (cache / "object_discovery").iterdir()
    assert kept.name.startswith("data.")
    assert read_again(folder) == (expected, [])
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "object_discovery.numbers.npz"]


def test_nothing_is_kept_where_nothing_can_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    (folder / "object_discovery.numbers.npz").mkdir()
    expected = [1000 + number for number in range(300)]
    assert read_again(folder) == (expected, sorted(NAMES))
    assert read_again(folder) == (expected, sorted(NAMES))


def test_an_error_ends_the_reading_and_nothing_is_kept(folder: Path) -> None:
    def read(path: Path) -> int:
        raise CorruptFileError(f"{path.name} is damaged")

    with pytest.raises(CorruptFileError, match=r"000.txt is damaged"):
        cached_integers(folder, NAMES, read, "numbers")
    assert not list(folder.glob("*numbers*"))


def test_writers_at_the_same_time_never_show_half_a_file(folder: Path) -> None:
    names, expected = NAMES[:50], list(range(1000, 1050))

    def write_and_read(writer: int) -> list[bool]:
        good = []
        for turn in range(10):
            os.utime(folder / NAMES[writer], (turn, turn))  # so that the numbers are written again
            read: list[Path] = []

            def number(path: Path, read: list[Path] = read) -> int:
                read.append(path)
                return 1000 + int(path.stem)

            good.append(cached_integers(folder, names, number, "numbers").tolist() == expected and len(read) <= 4)
        return good

    read_again(folder, names)
    with ThreadPoolExecutor(4) as pool:
        assert all(all(good) for good in pool.map(write_and_read, range(4)))
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "object_discovery.numbers.npz"]
