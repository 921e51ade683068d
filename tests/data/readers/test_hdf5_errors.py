from pathlib import Path

import h5py
import pytest

from object_discovery.data.readers.hdf5_errors import HDF5_ERRORS, hdf5_errors, open_hdf5
from object_discovery.errors import CorruptFileError, DatasetNotFoundError


@pytest.mark.parametrize("error", HDF5_ERRORS)
def test_every_hdf5_error_becomes_one_line(error: type[Exception]) -> None:
    with (
        pytest.raises(
            CorruptFileError, match=r"^a\.h5: cannot read it, get or convert the file again \(line one line two\)$"
        ),
        hdf5_errors(Path("a.h5"), "cannot read it"),
    ):
        raise error("line one\n line two")


def test_corrupt_file_errors_are_unchanged() -> None:
    with pytest.raises(CorruptFileError, match=r"^no dataset$"), hdf5_errors(Path("a.h5"), "cannot read it"):
        raise CorruptFileError("no dataset")


def test_missing_unreadable_and_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(DatasetNotFoundError, match=r"^No such file: .*a\.h5$"):
        open_hdf5(path, "scenes")
    with pytest.raises(CorruptFileError, match="expected an HDF5 file of scenes, but got a folder"):
        open_hdf5(tmp_path, "scenes")
    path.write_text("hello" * 99)
    with pytest.raises(CorruptFileError, match="expected a whole HDF5 file of scenes, but it cannot be opened"):
        open_hdf5(path, "scenes")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*a\.h5: permission denied"):
        open_hdf5(path, "scenes")


def test_open_hdf5_opens_a_file_for_reading(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = [1, 2]
    with open_hdf5(tmp_path / "a.h5", "numbers") as file:
        assert file["a"][:].tolist() == [1, 2]
