import tempfile
from collections.abc import Iterator
from functools import cache
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest
import torch

from object_discovery.benchmarks.data import DataBenchmarkParams, run
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.tfrecord_writer import example, random_scene, write

TINY = {"num_written": 2, "resolution": 16, "batch_size": 2, "seconds": 0.0, "repeats": 2}
READ = [
    f"read {layout}, {method}"
    for layout in ("library", "reference", "PNG")
    for method in ("0 workers", "2 workers", "without a loader")
]
UNITS = {
    **dict.fromkeys([*READ, "loader of the library, one core", "write library", "write reference"], "images/s"),
    "convert, a record": "ms",
    "decompress by isal, a record": "ms",
    "decompress by zlib, a record": "ms",
}
TARGETS = {
    "read library / reference, without a loader": 10,
    "read library / reference, 0 workers": 10,
    "read library / reference, 2 workers": 10,
    "read library / PNG, 0 workers": None,
    "read library / PNG, 2 workers": None,
    "write library / reference": 10,
    "time to convert / to decompress by isal": None,
    "time to convert / to decompress by zlib": None,
}


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder for the temporary files of the benchmark, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    get_temp_dir()  # workers keep their sockets in the default folder, whose path is short enough
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@cache
def record(dataset: str, seed: int) -> bytes:
    return example(random_scene(dataset, seed))


def write_scenes(path: Path, dataset: str = "clevr_with_masks", compression: str = "gzip") -> str:
    return str(write(path, [record(dataset, 0), record(dataset, 1)], compression))


def test_report_has_all_measurements_and_ratios(tmp_path: Path, temporary_folder: Path) -> None:
    threads = torch.get_num_threads()
    params = DataBenchmarkParams(source=write_scenes(tmp_path / "a.tfrecords"), num_scenes=2, **TINY)  # type: ignore[arg-type]
    report = run(params)
    assert report.title == f"data: 2 scenes of {tmp_path / 'a.tfrecords'}, 240 x 320 pixels"
    assert {row.name: row.unit for row in report.measurements} == UNITS
    for row in report.measurements:
        assert 0 < row.minimum <= row.median <= row.maximum
    assert {ratio.name: ratio.target for ratio in report.ratios} == TARGETS
    ratios = {ratio.name: ratio.ratio for ratio in report.ratios}
    assert ratios["write library / reference"] > 1  # far above, unless the ratio is inverted
    medians = {row.name: row.median for row in report.measurements}
    assert medians["loader of the library, one core"] == medians["read library, 0 workers"]
    assert torch.get_num_threads() == threads


def test_scenes_are_synthetic_without_a_source(temporary_folder: Path) -> None:
    report = run(DataBenchmarkParams(num_scenes=2, **{**TINY, "repeats": 1}))  # type: ignore[arg-type]
    assert report.title == "data: 2 synthetic scenes, 240 x 320 pixels"
    assert {row.name for row in report.measurements} == UNITS.keys()


@pytest.mark.parametrize(("compression", "rows"), [("zlib", 3), ("plain", 1)])
def test_decompression_is_timed_for_compressed_files_only(
    tmp_path: Path, temporary_folder: Path, compression: str, rows: int
) -> None:
    source = write_scenes(tmp_path / "a.tfrecords", compression=compression)
    report = run(DataBenchmarkParams(source=source, num_scenes=1, **{**TINY, "repeats": 1}))  # type: ignore[arg-type]
    assert sum(row.unit == "ms" for row in report.measurements) == rows


def test_invalid_sources_are_refused(tmp_path: Path, temporary_folder: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="No such file"):
        run(DataBenchmarkParams(source=str(tmp_path / "none.tfrecords")))
    with pytest.raises(UserError, match="to hold clevr_with_masks, but it holds tetrominoes"):
        run(DataBenchmarkParams(source=write_scenes(tmp_path / "a.tfrecords", "tetrominoes")))
    (tmp_path / "b.tfrecords").write_bytes(b"no TFRecord file")
    with pytest.raises(CorruptFileError, match=r"b\.tfrecords"):
        run(DataBenchmarkParams(source=str(tmp_path / "b.tfrecords")))


@pytest.mark.parametrize("name", ["num_scenes", "num_written", "resolution", "batch_size", "repeats"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"Expected argument `{name}` to be at least 1, but got 0"):
        DataBenchmarkParams(**{name: 0})  # type: ignore[arg-type]


def test_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected argument `seconds` to be at least 0, but got -1"):
        DataBenchmarkParams(seconds=-1)
