"""How fast scenes are read, written and converted: our layout beside the published one and a tree of PNG files.

All files lie in a temporary folder that is removed in the end. Everything is read from the system's cache, on one
thread a process.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from isal import isal_zlib

from object_discovery.benchmarks.layouts import CROP, read_features, write_ours, write_png_tree, write_published
from object_discovery.benchmarks.records import write_records
from object_discovery.benchmarks.report import BenchmarkReport, Measure, Ratio
from object_discovery.benchmarks.timing import Timing, time_in_turn
from object_discovery.data.conversion.tfrecord import read_records
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.dataset import StoredScenes
from object_discovery.data.datasets.clevr import CLEVRSource, central_crop
from object_discovery.data.loaders import SceneLoader, make_loader
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.readers.source import SceneSource
from object_discovery.errors import UserError, check_at_least

_LAYOUTS = ("ours", "published", "PNG tree")
_WORKERS = (0, 2)
_BLOCK = 1 << 16


@dataclass
class DataBenchmarkParams:
    """What to measure, and how long."""

    source: str | None = None
    """TFRecord file of CLEVR with masks. None: scenes of that size, generated."""
    num_scenes: int = 256
    """Scenes to read; of a file its first ones."""
    num_written: int = 64
    """Scenes to write in each repetition."""
    resolution: int = 128
    """Height and width that images are loaded at in pixels."""
    batch_size: int = 64
    """Images in a batch."""
    seconds: float = 2.0
    """About how long to read in each repetition; at least four batches are read."""
    repeats: int = 5
    """Repetitions of everything; they alternate."""
    out: str | None = None
    """JSON file for the result. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "num_scenes", "num_written", "resolution", "batch_size", "repeats")
        check_at_least(self, 0, "seconds")


def run(params: DataBenchmarkParams) -> BenchmarkReport:
    """Measure reading, writing and converting.

    Args:
        params: What to measure, and how long.

    Returns:
        The measures, and the ratios with their targets.

    Raises:
        DatasetNotFoundError: If there is no such source.
        CorruptFileError: If the source is damaged.
        UserError: If it is of another dataset.
    """
    with tempfile.TemporaryDirectory() as name, _one_thread():
        folder = Path(name)
        records, drawn = Path(params.source or folder / "drawn.tfrecords"), params.source is None
        if drawn:
            write_records(records, params.num_scenes)
        size = convert_tfrecord(records, folder / "ours.h5", limit=params.num_scenes, progress=False)
        ours = SceneFile(folder / "ours.h5")
        if ours.dataset != "clevr_with_masks":
            raise UserError(f"Expected {records} to hold clevr_with_masks, but it holds {ours.dataset}")
        of = "generated" if drawn else f"of {records}"
        report = BenchmarkReport(f"data: {size:,} scenes {of}, 240 x 320 pixels", asdict(params))
        _measure_reading(report, params, _write_layouts(folder, ours, size))
        _measure_writing(report, params, folder, ours)
        _measure_conversion(report, params, folder, records, size)
        ours.close()
    return report


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write_layouts(folder: Path, ours: SceneFile, size: int) -> dict[str, SceneSource]:
    scenes = read_features(ours, range(size))
    write_published(folder / "published.h5", scenes)
    write_png_tree(folder / "CLEVR_v1.0", scenes)
    sources = (ours, SceneFile(folder / "published.h5"), CLEVRSource(folder / "CLEVR_v1.0", "train"))
    return dict(zip(_LAYOUTS, sources, strict=True))


def _measure_reading(report: BenchmarkReport, params: DataBenchmarkParams, sources: dict[str, SceneSource]) -> None:
    """Read shuffled epochs through the loader, each layout as long as the others."""
    loaders, ways = [], {}
    for layout, source in sources.items():
        _read(_loader(params, source, 1, 0))
        once = time_in_turn({layout: _reader(_loader(params, source, 2, 0))}, 1)[layout]
        batches = max(4, round(params.seconds / once.median / params.batch_size))
        for workers in _WORKERS:
            loader = _loader(params, source, batches, workers)
            _read(loader)  # the workers start
            loaders.append(loader)
            ways[_reading(layout, workers)] = _reader(loader)
    ways |= {f"read {layout}, without a loader": _scene_reader(source) for layout, source in sources.items()}
    timings = time_in_turn(ways, params.repeats)
    report.measures += [_per_second(name, timing) for name, timing in timings.items()]
    bare = [timings[f"read {layout}, without a loader"] for layout in _LAYOUTS]
    report.ratios.append(Ratio("read ours / published, without a loader", bare[1].over(bare[0]), 10))
    for workers in _WORKERS:
        ratios = [timings[_reading(layout, workers)].over(timings[_reading("ours", workers)]) for layout in _LAYOUTS]
        report.ratios.append(Ratio(f"read ours / published, {workers} workers", ratios[1], 10))
        report.ratios.append(Ratio(f"read ours / PNG tree, {workers} workers", ratios[2]))
    report.measures.append(_per_second("our loader, a core", timings[_reading("ours", 0)]))


def _reading(layout: str, workers: int) -> str:
    return f"read {layout}, {workers} workers"


def _loader(params: DataBenchmarkParams, source: SceneSource, batches: int, workers: int) -> SceneLoader:
    """Load so many batches of a source, whose scenes are taken again and again if they are fewer."""
    indices = np.resize(np.arange(len(source)), batches * params.batch_size)
    crop = central_crop(source.image(0).shape[:2]) if isinstance(source, CLEVRSource) else CROP
    scenes = StoredScenes(source, indices, crop, params.resolution)
    return make_loader(scenes, train=True, batch_size=params.batch_size, num_workers=workers)


def _read(loader: SceneLoader) -> int:
    return sum(len(batch["image"]) for batch in loader)


def _reader(loader: SceneLoader) -> Callable[[], int]:
    return lambda: _read(loader)


def _scene_reader(source: SceneSource) -> Callable[[], int]:
    """Read images and label maps as they are stored, shuffled, without crop, resizing and batches."""

    def read() -> int:
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            source.image(index)
            source.maps(index)
        return len(source)

    return read


def _measure_writing(report: BenchmarkReport, params: DataBenchmarkParams, folder: Path, ours: SceneFile) -> None:
    scenes = read_features(ours, range(min(params.num_written, len(ours))))
    ways = {
        "write ours": lambda: write_ours(folder / "written.h5", scenes),
        "write the published way": lambda: write_published(folder / "written.h5", scenes),
    }
    timings = time_in_turn(ways, params.repeats)
    report.measures += [_per_second(name, timing) for name, timing in timings.items()]
    ratio = timings["write the published way"].over(timings["write ours"])
    report.ratios.append(Ratio("write ours / the published way", ratio, 10))


def _measure_conversion(
    report: BenchmarkReport, params: DataBenchmarkParams, folder: Path, records: Path, size: int
) -> None:
    """Convert the records from end to end, and only decompress them, which nothing can do without."""
    *_, last = islice(read_records(records, check=False), size)
    length = last.offset + 16 + len(last.data)

    def convert_all() -> int:
        return convert_tfrecord(records, folder / "again.h5", limit=size, progress=False, overwrite=True)

    ways: dict[str, Callable[[], int]] = {"convert": convert_all}
    compressed = _window_bits(records)
    if compressed:
        for name, library in (("decompress by isal", isal_zlib), ("decompress by zlib", zlib)):
            ways[name] = _decompressor(library, records, compressed, length, size)
    timings = time_in_turn(ways, params.repeats)
    report.measures += [_milliseconds(f"{name}, a record", timing) for name, timing in timings.items()]
    for name, timing in timings.items():
        if name != "convert":
            report.ratios.append(Ratio(f"time to convert / to {name}", timings["convert"].over(timing)))


def _window_bits(path: Path) -> int | None:
    """Return what tells zlib how a file is compressed, by GZIP or ZLIB; None if it is not."""
    with open(path, "rb") as file:
        start = file.read(2)
    return 31 if start == b"\x1f\x8b" else 15 if start[:1] == b"\x78" else None


def _decompressor(library: Any, path: Path, bits: int, length: int, size: int) -> Callable[[], int]:
    """Decompress the first `length` bytes of the content of a file, which are `size` records."""

    def decompress() -> int:
        stream, missing = library.decompressobj(bits), length
        with open(path, "rb") as file:
            while missing > 0 and (block := file.read(_BLOCK)):
                missing -= len(stream.decompress(block))
        return size

    return decompress


def _per_second(name: str, timing: Timing) -> Measure:
    rates = [1 / seconds for seconds in timing.seconds]
    return Measure(name, "images/s", 1 / timing.median, min(rates), max(rates))


def _milliseconds(name: str, timing: Timing) -> Measure:
    return Measure(name, "ms", 1e3 * timing.median, 1e3 * min(timing.seconds), 1e3 * max(timing.seconds))
