"""Training, validation and test splits of files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.readers.source import SceneSource
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError

SPLITS = ("train", "val", "test")
"""Names of the splits."""
_SUFFIXES = (".h5", ".hdf5")


class PublishedSplit(NamedTuple):
    """Split of the published experiments: the first `train` scenes, the next `test`, the rest for validation."""

    train: int
    test: int


class Split(NamedTuple):
    """One split: scenes `indices` of `source`, selected by `rule` (text for the user)."""

    source: SceneSource
    indices: npt.NDArray[np.int64]
    rule: str


def split_indices(size: int, published: PublishedSplit) -> tuple[dict[str, npt.NDArray[np.int64]], str]:
    """Split the scenes of one file, in file order.

    A file with at least the published training and test scenes is split as published; if it has no more than these, the
    last training scenes are for validation. A smaller file is split 70 / 15 / 15 % into training, validation and test.

    Args:
        size: Number of scenes, at least 3.
        published: The published split.

    Returns:
        Scenes of each split, disjoint and complete, and the rule as text.

    Raises:
        UserError: If there are fewer than 3 scenes.

    Example:
        >>> indices, rule = split_indices(10, PublishedSplit(train=60_000, test=320))
        >>> {split: scenes.tolist() for split, scenes in indices.items()}
        {'train': [0, 1, 2, 3, 4, 5, 6, 7], 'val': [8], 'test': [9]}
        >>> rule
        'in file order, 70 / 15 / 15 % to train, validate and test'
    """
    if size < 3:
        raise UserError(f"Expected at least 3 scenes to split into training, validation and test, but got {size}")
    scenes = np.arange(size)
    num_published = published.train + published.test
    if size >= num_published:
        train, test, val = np.split(scenes, [published.train, num_published])
        rule = f"as published: the first {published.train:,} scenes to train, the next {published.test:,} to test, "
        if len(val):
            return {"train": train, "val": val, "test": test}, rule + "the rest to validate"
        train, val = np.split(train, [published.train - published.test])
        rule += f"but the last {published.test:,} of the former to validate"
        return {"train": train, "val": val, "test": test}, rule
    part = max(1, size * 15 // 100)
    train, val, test = np.split(scenes, [size - 2 * part, size - part])
    return {"train": train, "val": val, "test": test}, "in file order, 70 / 15 / 15 % to train, validate and test"


def find_splits(
    root: str | Path, name: str, variant: str | None, published: PublishedSplit, default: str | None = None
) -> dict[str, Split]:
    """Find the splits of a dataset in a file or a folder.

    A file is split by `split_indices`. In a folder, files whose names begin with `train`, `val` and `test` are
    used as named; without a validation file, the last 15 % of the training file are for validation. Otherwise the only
    file of the folder is used, or the only one of the variant by its name or content, or the only one whose name
    contains that of the dataset.

    Args:
        root: An HDF5 file, or a folder with HDF5 files (`.h5`, `.hdf5`).
        name: Name of the dataset.
        variant: Variant of the dataset.
        published: The published split.
        default: Variant to use if files of several exist and `variant` is None.

    Returns:
        The splits found: a folder with a training file and no test file has no `test`.

    Raises:
        DatasetNotFoundError: If there is no such file or folder, or no HDF5 file in it.
        UserError: If a file holds another dataset or variant or too few scenes, or a folder more than one candidate.
    """
    root = Path(root).expanduser()
    files = _hdf5_files(root, name)
    by_split = {split: [file for file in files if file.stem.startswith(split)] for split in SPLITS}
    if root.is_dir() and any(by_split.values()):
        chosen = {split: _only(found, root) for split, found in by_split.items() if found}
        return _split_by_name({split: _open(file, name, variant) for split, file in chosen.items()})
    path = _only(_of_variant(files, name, variant or default), root)
    file = _open(path, name, variant)
    indices, rule = split_indices(len(file), published)
    return {split: Split(file, scenes, f"{path.name}, {rule}") for split, scenes in indices.items()}


def _of_variant(files: list[Path], name: str, variant: str | None) -> list[Path]:
    """Select the files of a variant by their names, or by their contents; otherwise those of the dataset by name."""
    if len(files) < 2:
        return files
    named = [file for file in files if name in file.stem] or files
    if len(named) < 2 or variant is None:
        return named
    same = [file for file in files if variant in file.stem]
    return same or [file for file in named if _has_variant(file, variant)] or named


def _has_variant(path: Path, variant: str) -> bool:
    """Return whether the attributes of a file state a variant."""
    file = SceneFile(path)
    try:
        return file.variant == variant
    except (CorruptFileError, DatasetNotFoundError):  # reported when it is used
        return False
    finally:
        file.close()


def _split_by_name(files: dict[str, SceneFile]) -> dict[str, Split]:
    splits = {s: Split(file, np.arange(len(file)), f"the whole of {file.path.name}") for s, file in files.items()}
    if "train" in files and "val" not in files:
        file, scenes = files["train"], splits["train"].indices
        if len(file) < 2:
            raise UserError(
                f"Expected at least 2 scenes in {file.path.name}, some to train and some to validate, "
                f"but got {len(file)}"
            )
        start = len(scenes) - max(1, len(scenes) * 15 // 100)
        splits["train"] = Split(file, scenes[:start], f"the first 85 % of {file.path.name}")
        splits["val"] = Split(file, scenes[start:], f"the last 15 % of {file.path.name}")
    return splits


def _hdf5_files(root: Path, name: str) -> list[Path]:
    """List the HDF5 files at `root`."""
    if not root.exists():
        raise DatasetNotFoundError(
            f"Expected argument `data_root` to be an HDF5 file or a folder of {name}, but {root} does not exist"
        )
    files = sorted(root.iterdir()) if root.is_dir() else [root]
    records = [file for file in files if file.suffix in (".tfrecords", ".tfrecord")]
    found = [file for file in files if file.suffix in _SUFFIXES] if root.is_dir() or records else files
    if not found and records:
        raise DatasetNotFoundError(
            f"Expected HDF5 files of {name}, but {root} holds TFRecord files: convert them once by "
            f"`object-discovery convert records {records[0]} {records[0].with_suffix('.h5')}`"
        )
    if not found:
        raise DatasetNotFoundError(
            f"Expected argument `data_root` to hold HDF5 files (.h5, .hdf5) of {name}, but found none at {root}"
        )
    return found


def _only(files: list[Path], root: Path) -> Path:
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"Expected one file, but {root} holds {names}: give the one to use as `data_root`")
    return files[0]


def _open(path: Path, name: str, variant: str | None) -> SceneFile:
    """Open a file if it holds the dataset and split asked for; a file without this information is accepted."""
    file = SceneFile(path)
    if not len(file):
        raise UserError(f"Expected {path} to hold scenes of {name}, but it is empty: convert it again")
    if file.dataset not in (None, name):
        raise UserError(f"Expected {path} to hold {name}, but it holds {file.dataset}: give `--dataset {file.dataset}`")
    if variant is not None and file.variant not in (None, variant):
        raise UserError(
            f"Expected {path} to hold the variant {variant}, but it holds {file.variant}: "
            f"give `--variant {file.variant}` or another file"
        )
    return file
