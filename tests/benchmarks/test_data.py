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
    f"read {layout}, {how}"
    for layout in ("ours", "published", "PNG tree")
    for how in ("0 workers", "2 workers", "without a loader")
]
MEASURES = {
    **dict.fromkeys([*READ, "our loader, a core", "write ours", "write the published way"], "images/s"),
    "convert, a record": "ms",
    "decompress by isal, a record": "ms",
    "decompress by zlib, a record": "ms",
}
BARS = {
    "read ours / published, without a loader": 10,
    "read ours / published, 0 workers": 10,
    "read ours / published, 2 workers": 10,
    "read ours / PNG tree, 0 workers": None,
    "read ours / PNG tree, 2 workers": None,
    "write ours / the published way": 10,
    "time to convert / to decompress by isal": None,
    "time to convert / to decompress by zlib": None,
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the benchmark puts its files, of which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    get_temp_dir()  # loading processes keep their sockets elsewhere, at a path that is short enough for one
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@cache
def record(dataset: str, seed: int) -> bytes:
    return example(random_scene(dataset, seed))


def write_scenes(path: Path, dataset: str = "clevr_with_masks", compression: str = "gzip") -> str:
    return str(write(path, [record(dataset, 0), record(dataset, 1)], compression))


def test_every_row_is_there_and_right(tmp_path: Path, temporary: Path) -> None:
    threads = torch.get_num_threads()
    params = DataBenchmarkParams(source=write_scenes(tmp_path / "a.tfrecords"), num_scenes=2, **TINY)  # type: ignore[arg-type]
    report = run(params)
    assert report.title == f"data: 2 scenes of {tmp_path / 'a.tfrecords'}, 240 x 320 pixels"
    assert {measure.name: measure.unit for measure in report.measures} == MEASURES
    for measure in report.measures:
        assert 0 < measure.low <= measure.median <= measure.high
    assert {ratio.name: ratio.at_least for ratio in report.ratios} == BARS
    medians = {measure.name: measure.median for measure in report.measures}
    found = next(ratio.ratio for ratio in report.ratios if ratio.name == "write ours / the published way")
    assert found > 1  # slower only if something is wrong
    assert medians["our loader, a core"] == medians["read ours, 0 workers"]
    assert torch.get_num_threads() == threads


def test_scenes_are_drawn_without_a_source(temporary: Path) -> None:
    report = run(DataBenchmarkParams(num_scenes=2, **{**TINY, "repeats": 1}))  # type: ignore[arg-type]
    assert report.title == "data: 2 scenes generated, 240 x 320 pixels"
    assert {measure.name for measure in report.measures} == MEASURES.keys()


@pytest.mark.parametrize(("compression", "rows"), [("zlib", 3), ("plain", 1)])
def test_only_what_is_compressed_is_decompressed(tmp_path: Path, temporary: Path, compression: str, rows: int) -> None:
    source = write_scenes(tmp_path / "a.tfrecords", compression=compression)
    report = run(DataBenchmarkParams(source, num_scenes=1, **{**TINY, "repeats": 1}))  # type: ignore[arg-type]
    assert sum(measure.unit == "ms" for measure in report.measures) == rows


def test_sources_that_cannot_be_used(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="No such file"):
        run(DataBenchmarkParams(source=str(tmp_path / "none.tfrecords")))
    with pytest.raises(UserError, match="to hold clevr_with_masks, but it holds tetrominoes"):
        run(DataBenchmarkParams(source=write_scenes(tmp_path / "a.tfrecords", "tetrominoes")))
    (tmp_path / "b.tfrecords").write_bytes(b"no records at all")
    with pytest.raises(CorruptFileError, match=r"b\.tfrecords"):
        run(DataBenchmarkParams(source=str(tmp_path / "b.tfrecords")))


@pytest.mark.parametrize("name", ["num_scenes", "num_written", "resolution", "batch_size", "repeats"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"Expected argument `{name}` to be at least 1, but got 0"):
        DataBenchmarkParams(**{name: 0})  # type: ignore[arg-type]


def test_negative_time() -> None:
    with pytest.raises(ValueError, match="Expected argument `seconds` to be at least 0, but got -1"):
        DataBenchmarkParams(seconds=-1)
