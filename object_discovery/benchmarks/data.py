"""Speed of reading, writing and converting scenes: the library's layout, the reference layout and PNG files.

All files lie in a temporary folder, which is removed at the end. They are read from the page cache, with one thread in
each process.
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

from object_discovery.benchmarks.base_params import BenchmarkParams
from object_discovery.benchmarks.layouts import (
    CROP,
    read_features,
    write_library_layout,
    write_png_folder,
    write_reference_layout,
)
from object_discovery.benchmarks.records import HEIGHT, WIDTH, write_records
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.timing import time_alternating
from object_discovery.data.conversion.tfrecord import read_records
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.dataset import StoredScenes
from object_discovery.data.datasets.clevr import CLEVRSource, central_crop
from object_discovery.data.loaders import SceneLoader, make_loader
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.readers.source import SceneSource
from object_discovery.errors import UserError, check_at_least

_LAYOUTS = ("library", "reference", "PNG")
_WORKERS = (0, 2)
_BLOCK_SIZE = 1 << 16  # bytes
_TARGET = 10.0


@dataclass(kw_only=True)
class DataBenchmarkParams(BenchmarkParams):
    """Settings of the benchmark of data."""

    source: str | None = None
    """TFRecord file of CLEVR with masks. None: synthetic scenes of the same size."""
    num_scenes: int = 256
    """Scenes to read, from the start of the file."""
    num_written: int = 64
    """Scenes to write in each repetition."""
    resolution: int = 128
    """Height and width in pixels that images are resized to."""
    batch_size: int = 64
    """Images in a batch."""
    seconds: float = 2.0
    """Approximate duration of reading in each repetition; at least four batches are read."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        check_at_least(self, 1, "num_scenes", "num_written", "resolution", "batch_size")
        check_at_least(self, 0, "seconds")


def run(params: DataBenchmarkParams) -> BenchmarkReport:
    """Time reading, writing and conversion.

    Returns:
        The measurements, and ratios with their targets.

    Raises:
        DatasetNotFoundError: If the source does not exist.
        CorruptFileError: If the source is damaged.
        UserError: If the source is of another dataset.
    """
    with tempfile.TemporaryDirectory() as name, _one_thread():
        folder = Path(name)
        records, is_synthetic = Path(params.source or folder / "synthetic.tfrecords"), params.source is None
        if is_synthetic:
            write_records(records, params.num_scenes)
        size = convert_tfrecord(records, folder / "library.h5", limit=params.num_scenes, progress=False)
        scene_file = SceneFile(folder / "library.h5")
        if scene_file.dataset != "clevr_with_masks":
            raise UserError(f"Expected {records} to hold clevr_with_masks, but it holds {scene_file.dataset}")
        kind = f"{size:,} synthetic scenes" if is_synthetic else f"{size:,} scenes of {records}"
        report = BenchmarkReport(f"data: {kind}, {HEIGHT} x {WIDTH} pixels", asdict(params))
        _time_reading(report, params, _write_layouts(folder, scene_file, size))
        _time_writing(report, params, folder, scene_file)
        _time_conversion(report, params, folder, records, size)
        scene_file.close()
    return report


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write_layouts(folder: Path, scene_file: SceneFile, size: int) -> dict[str, SceneSource]:
    """Write the scenes of a file in the other two layouts, and return the source of each layout."""
    scenes = read_features(scene_file, range(size))
    write_reference_layout(folder / "reference.h5", scenes)
    write_png_folder(folder / "CLEVR_v1.0", scenes)
    sources = (scene_file, SceneFile(folder / "reference.h5"), CLEVRSource(folder / "CLEVR_v1.0", "train"))
    return dict(zip(_LAYOUTS, sources, strict=True))


def _time_reading(report: BenchmarkReport, params: DataBenchmarkParams, sources: dict[str, SceneSource]) -> None:
    """Time shuffled epochs of each layout, through the loader and directly from the source."""
    workloads = {}
    for layout, source in sources.items():
        _read(_make_loader(params, source, 1, 0))
        trial = time_alternating({layout: _loader_reader(_make_loader(params, source, 2, 0))}, 1)[layout]
        num_batches = max(4, round(params.seconds / trial.median / params.batch_size))
        for workers in _WORKERS:
            loader = _make_loader(params, source, num_batches, workers)
            _read(loader)  # starts the workers
            workloads[_loader_row(layout, workers)] = _loader_reader(loader)
    workloads |= {f"read {layout}, without a loader": _source_reader(source) for layout, source in sources.items()}
    timings = time_alternating(workloads, params.repeats)
    report.add_rates(timings)
    report.add_rates({"loader of the library, one core": timings[_loader_row("library", 0)]})
    library, reference, _ = (timings[f"read {layout}, without a loader"] for layout in _LAYOUTS)
    report.ratios.append(Ratio("read library / reference, without a loader", reference.over(library), _TARGET))
    for workers in _WORKERS:
        library, reference, png = (timings[_loader_row(layout, workers)] for layout in _LAYOUTS)
        report.ratios += [
            Ratio(f"read library / reference, {workers} workers", reference.over(library), _TARGET),
            Ratio(f"read library / PNG, {workers} workers", png.over(library)),
        ]


def _loader_row(layout: str, workers: int) -> str:
    return f"read {layout}, {workers} workers"


def _make_loader(params: DataBenchmarkParams, source: SceneSource, num_batches: int, workers: int) -> SceneLoader:
    """Build a loader of `num_batches` batches; scenes are repeated if the source has fewer."""
    indices = np.resize(np.arange(len(source)), num_batches * params.batch_size)
    crop = central_crop(source.image(0).shape[:2]) if isinstance(source, CLEVRSource) else CROP
    scenes = StoredScenes(source, indices, crop, params.resolution)
    return make_loader(scenes, train=True, batch_size=params.batch_size, num_workers=workers)


def _read(loader: SceneLoader) -> int:
    """Load an epoch; return its number of images."""
    return sum(len(batch["image"]) for batch in loader)


def _loader_reader(loader: SceneLoader) -> Callable[[], int]:
    return lambda: _read(loader)


def _source_reader(source: SceneSource) -> Callable[[], int]:
    """Read images and label maps as stored, in random order, without crop, resizing and batching."""

    def read() -> int:
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            source.image(index)
            source.maps(index)
        return len(source)

    return read


def _time_writing(report: BenchmarkReport, params: DataBenchmarkParams, folder: Path, scene_file: SceneFile) -> None:
    scenes = read_features(scene_file, range(min(params.num_written, len(scene_file))))
    workloads = {
        "write library": lambda: write_library_layout(folder / "written.h5", scenes),
        "write reference": lambda: write_reference_layout(folder / "written.h5", scenes),
    }
    timings = time_alternating(workloads, params.repeats)
    report.add_rates(timings)
    ratio = timings["write reference"].over(timings["write library"])
    report.ratios.append(Ratio("write library / reference", ratio, _TARGET))


def _time_conversion(
    report: BenchmarkReport, params: DataBenchmarkParams, folder: Path, records: Path, size: int
) -> None:
    """Time the conversion of the records, and their decompression, which is a lower bound."""
    *_, last = islice(read_records(records, check=False), size)
    length = last.offset + 16 + len(last.data)

    def convert_all() -> int:
        return convert_tfrecord(records, folder / "converted.h5", limit=size, progress=False, overwrite=True)

    workloads: dict[str, Callable[[], int]] = {"convert": convert_all}
    window_bits = _window_bits(records)
    if window_bits:
        for name, library in (("decompress by isal", isal_zlib), ("decompress by zlib", zlib)):
            workloads[name] = _decompressor(library, records, window_bits, length, size)
    timings = time_alternating(workloads, params.repeats)
    report.add_times({f"{name}, a record": timing for name, timing in timings.items()}, "ms")
    for name, timing in timings.items():
        if name != "convert":
            report.ratios.append(Ratio(f"time to convert / to {name}", timings["convert"].over(timing)))


def _window_bits(path: Path) -> int | None:
    """Determine the window bits of zlib's decompressor from a file's compression, gzip or zlib; None if it has none."""
    with open(path, "rb") as file:
        header = file.read(2)
    return 31 if header == b"\x1f\x8b" else 15 if header[:1] == b"\x78" else None


def _decompressor(library: Any, path: Path, window_bits: int, length: int, size: int) -> Callable[[], int]:
    """Decompress the first `length` bytes of a file's content, which hold `size` records."""

    def decompress() -> int:
        stream, remaining = library.decompressobj(window_bits), length
        with open(path, "rb") as file:
            while remaining > 0 and (block := file.read(_BLOCK_SIZE)):
                remaining -= len(stream.decompress(block))
        return size

    return decompress
