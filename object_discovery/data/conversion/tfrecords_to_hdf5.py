"""Conversion of DeepMind's Multi-Object Datasets from TFRecord to HDF5, without TensorFlow.

The main thread decompresses the file sequentially; worker threads verify, parse and compress the scenes, most of which
releases the global interpreter lock. Finished parts are stored in the folder `<target>.parts`, from which an
interrupted conversion continues; at the end they are concatenated without compressing them again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from object_discovery.data.conversion.parallel import ordered_map, resolve_workers
from object_discovery.data.conversion.tfrecord import Record, read_records
from object_discovery.data.label_maps import count_pixels, label_map
from object_discovery.data.readers.hdf5_scenes import VERSION, CompressedScene, compress_scene, write_scenes
from object_discovery.data.readers.multi_object_datasets import DATASET_SCHEMAS, DatasetSchema, find_schema
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar

PART_BYTES = 1 << 26
"""Uncompressed size of a part in bytes."""
_BLOCK_BYTES = 1 << 20  # of records per task of a thread: one record of CLEVR, many smaller ones
_FINISHED = "finished.h5"
_PARTS_VERSION = 2  # parts of another version are discarded
_FEATURE_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")  # valid as the name of an HDF5 dataset


def convert_tfrecord(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dataset: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> int:
    """Convert a TFRecord file to the HDF5 format of `object_discovery.data.readers.hdf5_scenes`.

    Args:
        source: TFRecord file.
        target: HDF5 file to write.
        dataset: Name of the dataset. None: recognised by the first record.
        limit: Number of scenes to convert, from the first. None: all.
        workers: Number of threads that parse and compress. None: one per core, at most four; 0: run in the calling
            thread.
        progress: Show a progress bar on a terminal.
        overwrite: Replace the target if it exists.

    Returns:
        Number of scenes written.

    Raises:
        DatasetNotFoundError: If the file does not exist, or `dataset` is not the name of a known dataset.
        CorruptFileError: If the source is damaged or of another dataset; no file is written.
        UserError: If the target exists or is not writable.
        ValueError: If `limit` is below 1 or `workers` negative.
    """
    _check_arguments(dataset, limit)
    workers = resolve_workers(workers, default_workers())
    conversion = _Conversion(Path(source), Path(target), dataset, limit)
    if conversion.target.exists() and not overwrite:
        conversion.remove_empty_folder()
        raise UserError(f"{conversion.target} exists already: choose another name, or pass `--overwrite`")
    try:
        return conversion.run(workers, progress)
    except CorruptFileError:
        shutil.rmtree(conversion.folder, ignore_errors=True)
        raise
    except (OSError, RuntimeError) as error:  # h5py raises either when the disk is full
        conversion.remove_temporary_files()
        conversion.remove_empty_folder()
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"Cannot write {conversion.target}: {reason}") from None


def default_workers() -> int:
    """Return the default number of threads that parse and compress: one per core, at most four."""
    return min(4, os.cpu_count() or 1)


def _check_arguments(dataset: str | None, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"Expected argument `limit` to be at least 1, but got {limit}")
    names = list(dict.fromkeys(schema.name for schema in DATASET_SCHEMAS))
    if dataset not in (None, *names):
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {', '.join(names)}, but got {dataset!r}")


@dataclass(frozen=True)
class _Encoder:
    """Converts the records of one file to compressed scenes."""

    schema: DatasetSchema
    entities: int
    """Number of entities per scene, with the background."""
    features: dict[str, tuple[int, Any]]
    """Size and type of each feature."""

    @classmethod
    def from_record(cls, record: Record, dataset: str | None) -> _Encoder:
        """Recognise the dataset by a record."""
        features = record.example()
        for name in features:
            if not _FEATURE_NAME.fullmatch(name):
                raise CorruptFileError(f"{_location(record)}: a feature has the odd name {name[:40]!r}")
        image, mask = (features.get(name, np.empty(0)) for name in ("image", "mask"))
        for schema in DATASET_SCHEMAS:
            height, width, channels = schema.image
            entities, rest = divmod(mask.size, height * width)
            if image.size != height * width * channels or rest or image.dtype != np.uint8 or mask.dtype != np.uint8:
                continue
            match = find_schema(schema.image, entities, "visibility" in features)
            if match is schema and dataset in (None, schema.name):
                return cls(schema, entities, _sizes(features))
        sizes = f"`image` of {image.size} and `mask` of {mask.size} bytes"
        raise CorruptFileError(f"{record.path}: expected scenes of {dataset or 'a known dataset'}, but got {sizes}")

    @property
    def num_labels(self) -> int:
        """Number of labels, with the background."""
        return self.entities + 1 - self.schema.background_entities

    def encode(self, records: list[Record]) -> list[CompressedScene]:
        """Verify, parse and compress records."""
        return [self._encode(record) for record in records]

    def _encode(self, record: Record) -> CompressedScene:
        record.check()
        features = record.example()
        if _sizes(features) != self.features:
            raise CorruptFileError(f"{_location(record)}: a record has other features or sizes than the first")
        labels = self._label_map(features["mask"])
        columns = {f"factors/{name}": self._factor(features[name]) for name in features.keys() - {"image", "mask"}}
        columns["counts/frame"] = count_pixels(labels, self.num_labels)
        if self.schema.crop:
            columns["counts/crop"] = count_pixels(labels, self.num_labels, self.schema.crop)
        return compress_scene(features["image"].reshape(self.schema.image), labels, columns, self.schema.crop)

    def _label_map(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shape = list(self.schema.image[:2])
        shape.insert(self.schema.entity_axis, self.entities)
        masks = np.moveaxis(mask.reshape(shape), self.schema.entity_axis, 0)
        return label_map(masks, self.schema.background_entities)

    def _factor(self, values: NDArray[Any]) -> NDArray[Any]:
        """Reshape a feature with several values per entity to one row per entity."""
        columns, rest = divmod(values.size, self.entities)
        return values.reshape(self.entities, columns) if columns > 1 and not rest else values


def _location(record: Record) -> str:
    return f"{record.path}: damaged at byte {record.offset} of its decompressed content"


def _sizes(features: dict[str, NDArray[Any]]) -> dict[str, tuple[int, Any]]:
    return {name: (values.size, values.dtype) for name, values in features.items()}


@dataclass(frozen=True)
class _Conversion:
    """Resumable conversion of one file."""

    source: Path
    target: Path
    dataset: str | None
    limit: int | None

    @property
    def folder(self) -> Path:
        """Folder of the finished parts."""
        return self.target.with_name(self.target.name + ".parts")

    def run(self, workers: int, progress: bool) -> int:
        """Convert the file; return the number of scenes."""
        records = read_records(self.source, check=False)
        first = next(records, None)
        if first is None:
            raise CorruptFileError(f"{self.source}: expected a TFRecord file, but it holds no record")
        first.check()
        encoder = _Encoder.from_record(first, self.dataset)
        self._prepare_folder()
        if not (self.folder / _FINISHED).exists():
            self._write_parts(encoder, workers, progress)
            self._concatenate_parts(encoder)
        return self._finish()

    def remove_empty_folder(self) -> None:
        """Remove the folder if it has no parts."""
        if self.folder.is_dir() and not any(self.folder.glob("*.h5")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove_temporary_files(self) -> None:
        """Remove temporary files of a killed process."""
        for path in self.folder.glob(".*"):
            path.unlink()

    def _prepare_folder(self) -> None:
        """Create the folder; remove parts of another source or other settings, and incomplete ones."""
        stat = self.source.stat()
        key = json.dumps(
            [
                str(self.source.resolve()),
                stat.st_size,
                stat.st_mtime_ns,
                self.limit,
                self.dataset,
                PART_BYTES,
                _PARTS_VERSION,
                VERSION,
            ]
        )
        key_file = self.folder / "source.json"
        if self.folder.exists() and (not key_file.is_file() or key_file.read_text() != key):
            shutil.rmtree(self.folder)
        if not self.folder.exists():
            self.folder.mkdir()
            with atomic_write(key_file, sync=True) as temporary:
                temporary.write_text(key)
        self.remove_temporary_files()
        valid = True
        for part in sorted(self.folder.glob("*.h5")):
            valid = valid and _is_valid(part)  # the parts after an invalid one are removed, too
            if not valid:
                part.unlink()

    def _parts(self) -> list[Path]:
        """Return the finished parts, in order."""
        parts = sorted(self.folder.glob("part_*.h5"))
        return [part for number, part in enumerate(parts) if part.name == _part_name(number)]

    def _attributes(self, encoder: _Encoder) -> dict[str, Any]:
        schema = encoder.schema
        attributes = {"dataset": schema.name, "source": self.source.name, "source_size": self.source.stat().st_size}
        return attributes | ({"variant": schema.variant} if schema.variant else {})

    def _write(self, path: Path, encoder: _Encoder, scenes: Iterable[CompressedScene], num_scenes: int) -> None:
        schema, attributes = encoder.schema, self._attributes(encoder)
        with atomic_write(path, sync=True) as temporary:
            write_scenes(temporary, scenes, num_scenes, schema.image, attributes, schema.crop)

    def _write_parts(self, encoder: _Encoder, workers: int, progress: bool) -> None:
        height, width, channels = encoder.schema.image
        size = max(1, PART_BYTES // (height * width * (channels + 1)))
        sizes = [_num_scenes(part) for part in self._parts()]
        if sizes and sizes[-1] < size:
            return  # only the last part is smaller
        with _progress_bar(self.source, self.limit, progress) as bar:
            records = _track(islice(read_records(self.source, check=False), self.limit), bar, self.limit)
            blocks = _group(islice(records, sum(sizes), None))
            scenes = chain.from_iterable(ordered_map(encoder.encode, blocks, workers))
            for number in count(len(sizes)):
                part = list(islice(scenes, size))
                if part:
                    self._write(self.folder / _part_name(number), encoder, part, len(part))
                if len(part) < size:
                    break

    def _concatenate_parts(self, encoder: _Encoder) -> None:
        """Write the finished file from the parts."""
        parts = self._parts()
        missing = sum(part.stat().st_size for part in parts) - shutil.disk_usage(self.folder).free
        if missing > 0:
            raise OSError(f"the disk is too full, free {missing >> 20} MiB and run the command again to continue")
        num_scenes = sum(_num_scenes(part) for part in parts)
        self._write(self.folder / _FINISHED, encoder, _read_compressed(parts), num_scenes)

    def _finish(self) -> int:
        """Move the finished file to the target and remove the folder; return the number of scenes."""
        num_scenes = _num_scenes(self.folder / _FINISHED)
        for part in self._parts():
            part.unlink()
        os.replace(self.folder / _FINISHED, self.target)
        shutil.rmtree(self.folder)
        return num_scenes


def _part_name(number: int) -> str:
    return f"part_{number:06}.h5"


def _is_valid(part: Path) -> bool:
    try:
        return _num_scenes(part) > 0
    except (OSError, RuntimeError, KeyError):
        return False


def _num_scenes(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return int(file["image"].shape[0])


def _read_compressed(parts: Iterable[Path]) -> Iterator[CompressedScene]:
    """Read the scenes of parts without decompressing them."""
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
                yield CompressedScene(image, mask, {name: values[index] for name, values in columns.items()})


def _group(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group records to blocks of about 1 MiB."""
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


def _progress_bar(source: Path, limit: int | None, progress: bool) -> Progress:
    column = MofNCompleteColumn() if limit else TextColumn("{task.fields[scenes]} scenes")
    bar = progress_bar(column, enabled=progress)
    bar.add_task(source.name, total=limit or source.stat().st_size, scenes=0)
    return bar


def _track(records: Iterable[Record], bar: Progress, limit: int | None) -> Iterator[Record]:
    """Yield records and update the progress bar."""
    for number, record in enumerate(records, 1):
        bar.update(bar.task_ids[0], completed=number if limit else record.consumed, scenes=number)
        yield record
