import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from object_discovery.data.readers.hdf5_arrays import ArrayFile, RowSpec
from object_discovery.errors import CorruptFileError, DatasetNotFoundError

CHUNKS: list[dict[str, Any]] = [
    {},
    {"chunks": (1, 3, 4, 1), "compression": "gzip"},
    {"chunks": (10, 2, 2, 1), "compression": "gzip"},
    {"chunks": (4, 5, 7, 3), "compression": "gzip"},
    {"chunks": (4, 5, 7, 3), "compression": "lzf"},
    {"chunks": (4, 5, 7, 3), "compression": "gzip", "shuffle": True},
    {"chunks": (4, 5, 7, 3)},
]


def values() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 60_000, (10, 5, 7, 3)).astype(np.uint16)


def write(path: Path, **options: Any) -> ArrayFile:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values(), **options)
    return ArrayFile(path, "numbers", {"a": RowSpec(np.integer, (5, None, 3))})


@pytest.mark.parametrize("options", CHUNKS)
def test_rows_and_blocks_are_read_with_any_chunks_and_filters(tmp_path: Path, options: dict[str, Any]) -> None:
    file, expected = write(tmp_path / "a.h5", **options), values()
    assert (file.length("a"), file.row_shape("a")) == (10, (5, 7, 3))
    assert file.rows_per_chunk("a") == options.get("chunks", (1,))[0]
    for index in (0, 3, 9, -1):
        np.testing.assert_array_equal(file.row("a", index), expected[index])
        assert file.row("a", index).dtype == np.uint16
    for max_rows in (1, 3, 64):
        blocks = list(file.blocks("a", max_rows))
        assert max(map(len, blocks)) <= max_rows
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
    with pytest.raises(IndexError):
        file.row("a", 10)


def test_unwritten_chunks_have_the_fill_value(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", (4, 2), "u1", chunks=(1, 2), compression="gzip", fillvalue=7)
        array[1] = 5
    rows = ArrayFile(tmp_path / "a.h5", "numbers", {"a": RowSpec(np.uint8, (2,))})
    assert [rows.row("a", index).tolist() for index in range(4)] == [[7, 7], [5, 5], [7, 7], [7, 7]]


def _row(file: ArrayFile, index: int) -> bytes:
    return file.row("a", index).tobytes()


def test_forked_processes_read_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", chunks=(1, 3, 4, 1), compression="gzip")
    file.row("a", 0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.starmap(_row, [(file, 2), (file, 3)]) == [values()[2].tobytes(), values()[3].tobytes()]


def test_pickled_and_closed_files_are_opened_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5")
    file.row("a", 0)
    copy = pickle.loads(pickle.dumps(file))
    file.close()
    file.close()
    for opened in (copy, file):
        np.testing.assert_array_equal(opened.row("a", 4), values()[4])


def check_error(path: Path, error: type[Exception], match: str) -> None:
    """Check that reading a file raises one line that names it."""
    with pytest.raises(error, match=match) as raised:
        ArrayFile(path, "numbers", {"a": RowSpec(np.integer, (5, None, 3))}).row("a", 0)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_truncated_and_unreadable_files_raise_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_error(tmp_path / "none.h5", DatasetNotFoundError, "No such file")
    check_error(tmp_path, CorruptFileError, "but got a folder")
    write(tmp_path / "a.h5", chunks=(1, 3, 4, 1), compression="gzip")
    content = (tmp_path / "a.h5").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "truncated.h5").write_bytes(content[:size])
        check_error(tmp_path / "truncated.h5", CorruptFileError, "expected a whole HDF5 file of numbers")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(h5py, "File", refuse)
    check_error(tmp_path / "a.h5", DatasetNotFoundError, "permission denied")


@pytest.mark.parametrize(
    ("name", "array", "got"),
    [
        ("b", np.zeros((2, 5, 1, 3), np.uint8), "it has no dataset `a`"),
        ("a", np.zeros((2, 5, 1, 3)), r"it is float64 \(2, 5, 1, 3\)"),
        ("a", np.zeros((2, 4, 1, 3), np.uint8), r"it is uint8 \(2, 4, 1, 3\)"),
        ("a", np.zeros((2, 5, 1), np.uint8), r"it is uint8 \(2, 5, 1\)"),
        ("a/b", np.zeros(1), "it has no dataset `a`"),
    ],
)
def test_missing_arrays_and_other_types_and_shapes_are_refused(
    tmp_path: Path, name: str, array: NDArray[Any], got: str
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = array
    expected = rf"expected numbers with `a` as integer \(N, 5, any, 3\), but {got}"
    check_error(tmp_path / "a.h5", CorruptFileError, expected)


@pytest.mark.parametrize("options", [CHUNKS[1], CHUNKS[2]])
def test_a_damaged_chunk_raises_one_line(tmp_path: Path, options: dict[str, Any]) -> None:
    file = write(tmp_path / "a.h5", **options)
    with h5py.File(tmp_path / "a.h5") as opened:
        chunk = opened["a"].id.get_chunk_info(0)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    (tmp_path / "a.h5").write_bytes(content)
    check_error(tmp_path / "a.h5", CorruptFileError, "cannot read `a` of row 0, get or convert the file again")
    with pytest.raises(CorruptFileError, match="cannot read `a` of the rows from 0 on"):
        list(file.blocks("a"))
