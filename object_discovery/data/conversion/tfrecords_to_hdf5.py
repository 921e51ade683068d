"""Convert DeepMind's multi_object_datasets from TFRecord to HDF5, without TensorFlow.

One thread decompresses the file, which is sequential, while others check, parse and compress the scenes: all of that
runs outside Python's lock. Finished parts of the result stand in the folder `<target>.parts`, so a run that was killed
goes on where it stopped; they are put together without compressing anything again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from object_discovery.data.conversion.tfrecord import Record, read_records
from object_discovery.data.label_maps import count_pixels, label_map
from object_discovery.data.readers.hdf5_scenes import VERSION, Scene, pack_scene, write_scenes
from object_discovery.data.readers.multi_object_datasets import DATASET_SCHEMAS, DatasetSchema, find_schema
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar

PART_BYTES = 1 << 26
"""Uncompressed size of a part of the result."""
_BLOCK_BYTES = 1 << 20  # records given to a thread at once: one of CLEVR, many small ones
_FINISHED = "finished.h5"
_PARTS = 2  # how the parts are laid out; those of another number are not gone on with
_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")  # of a feature, which becomes the name of an array


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dataset: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> int:
    """Convert a TFRecord file to the HDF5 layout of :mod:`object_discovery.data.readers.hdf5_scenes`.

    Args:
        source: The TFRecord file.
        target: The HDF5 file to write.
        dataset: Name of the dataset. None: what the first record looks like.
        limit: Convert the first scenes only. None: all.
        workers: Threads that parse and compress. None: one for each core, at most four; 0: one.
        progress: Show a progress bar on a terminal.
        overwrite: Replace the target if it exists.

    Returns:
        The number of scenes written.

    Raises:
        DatasetNotFoundError: If there is no such file, or no dataset of this name.
        CorruptFileError: If the source is damaged or holds something else; nothing is left behind.
        UserError: If the target exists or cannot be written.
        ValueError: If `limit` is below 1 or `workers` negative.
    """
    _check_arguments(dataset, limit, workers)
    job = _Job(Path(source), Path(target), dataset, limit)
    if job.target.exists() and not overwrite:
        job.discard_leftovers()
        raise UserError(f"{job.target} exists already; choose another name or allow it to be overwritten")
    try:
        return job.run(default_workers() if workers is None else max(1, workers), progress)
    except CorruptFileError:
        shutil.rmtree(job.folder, ignore_errors=True)
        raise
    except (OSError, RuntimeError) as error:  # h5py raises either when the disk is full
        job.discard_unfinished()
        job.discard_leftovers()
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"Cannot write {job.target}: {reason}") from None


def default_workers() -> int:
    """Return how many threads parse and compress unless it is said: one a core, at most four."""
    return min(4, os.cpu_count() or 1)


def _check_arguments(dataset: str | None, limit: int | None, workers: int | None) -> None:
    for name, value, minimum in (("limit", limit, 1), ("workers", workers, 0)):
        if value is not None and value < minimum:
            raise ValueError(f"Expected argument `{name}` to be at least {minimum}, but got {value}")
    names = list(dict.fromkeys(known.name for known in DATASET_SCHEMAS))
    if dataset not in (None, *names):
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {', '.join(names)}, but got {dataset!r}")


@dataclass(frozen=True)
class _Encoder:
    """Turns the records of one file into scenes."""

    scene_set: DatasetSchema
    entities: int
    features: dict[str, tuple[int, Any]]
    """Size and type of every feature."""

    @classmethod
    def of(cls, record: Record, dataset: str | None) -> _Encoder:
        """Recognise the dataset from a record."""
        features = record.example()
        for name in features:
            if not _NAME.fullmatch(name):
                raise CorruptFileError(f"{_place(record)}: a feature has the odd name {name[:40]!r}")
        image, mask = (features.get(name, np.empty(0)) for name in ("image", "mask"))
        for known in DATASET_SCHEMAS:
            height, width, channels = known.image
            entities, rest = divmod(mask.size, height * width)
            if image.size != height * width * channels or rest or image.dtype != np.uint8 or mask.dtype != np.uint8:
                continue
            found = find_schema(known.image, entities, "visibility" in features)
            if found is known and dataset in (None, known.name):
                return cls(known, entities, _sizes(features))
        sizes = f"`image` of {image.size} and `mask` of {mask.size} bytes"
        raise CorruptFileError(f"{record.path}: expected scenes of {dataset or 'a known dataset'}, but got {sizes}")

    @property
    def labels(self) -> int:
        """Number of labels with the background."""
        return self.entities + 1 - self.scene_set.background_entities

    def encode(self, records: list[Record]) -> list[Scene]:
        """Check, parse and compress records."""
        return [self._encode(record) for record in records]

    def _encode(self, record: Record) -> Scene:
        record.check()
        features = record.example()
        if _sizes(features) != self.features:
            raise CorruptFileError(f"{_place(record)}: a record has other features or sizes than the first")
        labels = self._labels(features["mask"])
        columns = {f"factors/{name}": self._factor(features[name]) for name in features.keys() - {"image", "mask"}}
        columns["counts/frame"] = count_pixels(labels, self.labels)
        if self.scene_set.crop:
            columns["counts/crop"] = count_pixels(labels, self.labels, self.scene_set.crop)
        return pack_scene(features["image"].reshape(self.scene_set.image), labels, columns, self.scene_set.crop)

    def _labels(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shape = list(self.scene_set.image[:2])
        shape.insert(self.scene_set.entity_axis, self.entities)
        masks = np.moveaxis(mask.reshape(shape), self.scene_set.entity_axis, 0)
        return label_map(masks, self.scene_set.background_entities)

    def _factor(self, values: NDArray[Any]) -> NDArray[Any]:
        columns, rest = divmod(values.size, self.entities)
        return values.reshape(self.entities, columns) if columns > 1 and not rest else values


def _place(record: Record) -> str:
    return f"{record.path}: damaged at byte {record.offset} of its decompressed content"


def _sizes(features: dict[str, NDArray[Any]]) -> dict[str, tuple[int, Any]]:
    return {name: (values.size, values.dtype) for name, values in features.items()}


@dataclass(frozen=True)
class _Job:
    """One conversion, which may go on from the parts of an earlier one."""

    source: Path
    target: Path
    dataset: str | None
    limit: int | None

    @property
    def folder(self) -> Path:
        """Where the parts stand."""
        return self.target.with_name(self.target.name + ".parts")

    def run(self, workers: int, progress: bool) -> int:
        """Convert the file and return the number of scenes."""
        records = read_records(self.source, check=False)
        first = next(records, None)
        if first is None:
            raise CorruptFileError(f"{self.source}: expected a TFRecord file, but it holds no record")
        first.check()
        encoder = _Encoder.of(first, self.dataset)
        self._prepare()
        if not (self.folder / _FINISHED).exists():
            self._write_parts(encoder, workers, progress)
            self._assemble(encoder)
        return self._finish()

    def discard_leftovers(self) -> None:
        """Remove the folder of a run that was killed when there was nothing left to do."""
        if self.folder.is_dir() and not any(self.folder.glob("*.h5")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def discard_unfinished(self) -> None:
        """Remove what a run was writing when it was killed."""
        for unfinished in self.folder.glob(".*"):
            unfinished.unlink()

    def _prepare(self) -> None:
        """Make the folder, without parts of another source or setting."""
        state = self.source.stat()
        key = json.dumps(
            [
                str(self.source.resolve()),
                state.st_size,
                state.st_mtime_ns,
                self.limit,
                self.dataset,
                PART_BYTES,
                _PARTS,
                VERSION,
            ]
        )
        note = self.folder / "source.json"
        if self.folder.exists() and (not note.is_file() or note.read_text() != key):
            shutil.rmtree(self.folder)
        if not self.folder.exists():
            self.folder.mkdir()
            with atomic_write(note, sync=True) as temporary:
                temporary.write_text(key)
        self.discard_unfinished()
        sound = True
        for part in sorted(self.folder.glob("*.h5")):
            sound = sound and _is_sound(part)
            if not sound:
                part.unlink()

    def _parts(self) -> list[Path]:
        """Return the finished parts, in order."""
        parts = sorted(self.folder.glob("part_*.h5"))
        return [part for number, part in enumerate(parts) if part.name == _part_name(number)]

    def _attributes(self, encoder: _Encoder) -> dict[str, Any]:
        known = encoder.scene_set
        facts = {"dataset": known.name, "source": self.source.name, "source_size": self.source.stat().st_size}
        return facts | ({"variant": known.variant} if known.variant else {})

    def _write(self, path: Path, encoder: _Encoder, scenes: Iterable[Scene], num_scenes: int) -> None:
        known, attributes = encoder.scene_set, self._attributes(encoder)
        with atomic_write(path, sync=True) as temporary:
            write_scenes(temporary, scenes, num_scenes, known.image, attributes, known.crop)

    def _write_parts(self, encoder: _Encoder, workers: int, progress: bool) -> None:
        height, width, channels = encoder.scene_set.image
        size = max(1, PART_BYTES // (height * width * (channels + 1)))
        done = [_num_scenes(part) for part in self._parts()]
        if done and done[-1] < size:
            return  # the last part is shorter: all are there
        with _bar(self.source, self.limit, progress) as bar:
            records = _watched(islice(read_records(self.source, check=False), self.limit), bar, self.limit)
            scenes = _encoded(islice(records, sum(done), None), encoder, workers)
            for number in range(len(done), 1 << 62):
                part = list(islice(scenes, size))
                if part:
                    self._write(self.folder / _part_name(number), encoder, part, len(part))
                if len(part) < size:
                    break

    def _assemble(self, encoder: _Encoder) -> None:
        """Put the parts together, remove them, and leave the finished file."""
        parts = self._parts()
        missing = sum(part.stat().st_size for part in parts) - shutil.disk_usage(self.folder).free
        if missing > 0:
            raise OSError(f"the disk is too full, free {missing >> 20} MiB and run again to go on")
        num_scenes = sum(_num_scenes(part) for part in parts)
        self._write(self.folder / _FINISHED, encoder, _stored_scenes(parts), num_scenes)

    def _finish(self) -> int:
        num_scenes = _num_scenes(self.folder / _FINISHED)
        for part in self._parts():
            part.unlink()
        os.replace(self.folder / _FINISHED, self.target)
        shutil.rmtree(self.folder)
        return num_scenes


def _part_name(number: int) -> str:
    return f"part_{number:06}.h5"


def _is_sound(part: Path) -> bool:
    try:
        return _num_scenes(part) > 0
    except (OSError, RuntimeError, KeyError):
        return False


def _num_scenes(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return int(file["image"].shape[0])


def _stored_scenes(parts: Iterable[Path]) -> Iterator[Scene]:
    """Read the scenes of the parts as they are stored."""
    for part in parts:
        with h5py.File(part, "r") as file:
            columns = {
                f"{group}/{name}": data[:]
                for group in file
                if group in ("counts", "factors")
                for name, data in file[group].items()
            }
            images, masks = file["image"].id, file["mask"].id
            strips = range(0, images.shape[2], file["image"].chunks[2])
            for index in range(images.shape[0]):
                image = tuple(images.read_direct_chunk((index, 0, left, 0))[1] for left in strips)
                mask = masks.read_direct_chunk((index, 0, 0))[1]
                yield Scene(image, mask, {name: values[index] for name, values in columns.items()})


def _blocks(records: Iterable[Record]) -> Iterator[list[Record]]:
    block: list[Record] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record.data)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _encoded(records: Iterable[Record], encoder: _Encoder, workers: int) -> Iterator[Scene]:
    """Encode records in several threads, in order; of several errors the first in the file is raised."""
    blocks, failure = _blocks(records), None
    pending: deque[Future[list[Scene]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                try:
                    pending.append(pool.submit(encoder.encode, next(blocks)))
                except (StopIteration, CorruptFileError) as error:
                    failure = error
                while pending and (failure or len(pending) > 2 * workers):
                    yield from pending.popleft().result()
                if isinstance(failure, CorruptFileError):
                    raise failure
                if failure:
                    return
        finally:
            for future in pending:
                future.cancel()


def _bar(source: Path, limit: int | None, progress: bool) -> Progress:
    count = MofNCompleteColumn() if limit else TextColumn("{task.fields[scenes]} scenes")
    bar = progress_bar(count, enabled=progress)
    bar.add_task(source.name, total=limit or source.stat().st_size, scenes=0)
    return bar


def _watched(records: Iterable[Record], bar: Progress, limit: int | None) -> Iterator[Record]:
    for number, record in enumerate(records, 1):
        bar.update(bar.task_ids[0], completed=number if limit else record.consumed, scenes=number)
        yield record
