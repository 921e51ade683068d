"""Objects Room: coloured objects in a room, read from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.splits import Split
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

_TESTS = ("six_objects", "empty_room", "identical_color")


class ObjectsRoomDataModule(SceneDataModule):
    """Objects Room, 64 x 64 pixels (see `SceneDataModule` for filters, sizes and loaders).

    The first four masks of a scene, which are sky, floor and two walls, are the background 0. The files are the
    published HDF5 conversions or our own, and are told apart by their names: `six_objects`, `empty_room` and
    `identical_color` stand in those of the three published test sets, and any other file is the training set.

    *Variants.* `train`, the default, splits the training file: the first 90 % of the scenes train, the next 5 %
    validate, the last 5 % test (of the published million 50,000 each). `six_objects`, `empty_room` and
    `identical_color` train and validate on the same scenes, and test on the whole of that file, about 1,000
    scenes with up to 6 objects, with none, or with up to 6 of one colour. In an empty room
    there is nothing to score FG-ARI on.

    `data_root` is the folder with the files, or one file: the training file, or a test file, which then has a test
    split only. The scenes cannot be generated.

    Reference:
        Kabra et al., Multi-Object Datasets, 2019, github.com/deepmind/multi_object_datasets.
    """

    name = "objects_room"
    recommended = RECOMMENDED["objects_room"]
    variants = ("train", *_TESTS)
    how_to_get = (
        "convert each published TFRecord file once, and keep its name, by "
        "`object-discovery convert records SOURCE.tfrecords SOURCE.h5`"
    )

    @property
    def variant(self) -> str | None:
        """The variant asked for, else that of a lone test file, else `train`."""
        root = self.params.data_root
        lone = _only_test(_find_files(Path(root).expanduser())) if root else None
        return self.params.variant or lone or self.variants[0]

    def _find_splits(self, root: str) -> dict[str, Split]:
        folder = Path(root).expanduser()
        files = _find_files(folder)
        variant = self.variant or self.variants[0]
        splits = _split(_open(files["train"])) if "train" in files else {}
        if variant != "train":
            splits.pop("test", None)
            if variant in files:
                file = _open(files[variant])
                splits["test"] = Split(file, np.arange(len(file)), f"the whole of {file.path.name}")
        if not splits:
            names = ", ".join(path.name for path in files.values())
            raise DatasetNotFoundError(
                f"Expected {folder} to hold the variant {variant} of objects_room, but it holds {names} only"
            )
        return splits


def _only_test(files: dict[str, Path]) -> str | None:
    """Return the variant of a lone test file."""
    return next(iter(files)) if len(files) == 1 and "train" not in files else None


def _find_files(root: Path) -> dict[str, Path]:
    """Find the file of each variant."""
    if not root.exists():
        raise DatasetNotFoundError(f"Expected argument `data_root` to hold objects_room, but {root} does not exist")
    paths = sorted(root.iterdir()) if root.is_dir() else [root]
    files: dict[str, Path] = {}
    for path in paths:
        if root.is_dir() and path.suffix not in (".h5", ".hdf5"):
            continue
        variant = next((name for name in _TESTS if name in path.name), "train")
        if variant in files:
            both = f"{files[variant].name} and {path.name}"
            raise UserError(f"Expected one file of the variant {variant} in {root}, but got {both}: move one away")
        files[variant] = path
    if not files or next(iter(files.values())).suffix in (".tfrecords", ".tfrecord"):
        raise DatasetNotFoundError(
            f"Expected argument `data_root` to hold HDF5 files (.h5, .hdf5) of objects_room, but found none at {root}: "
            f"{ObjectsRoomDataModule.how_to_get}"
        )
    return files


def _open(path: Path) -> SceneFile:
    file = SceneFile(path)
    if not len(file):
        raise UserError(f"Expected {path} to hold scenes of objects_room, but it is empty: convert it again")
    if file.dataset not in (None, ObjectsRoomDataModule.name):
        raise UserError(
            f"Expected {path} to hold objects_room, but it holds {file.dataset}: give `--dataset {file.dataset}`"
        )
    return file


def _split(file: SceneFile) -> dict[str, Split]:
    """Split the training file."""
    size, name = len(file), file.path.name
    if size < 3:
        raise UserError(f"Expected at least 3 scenes in {name} to train, validate and test, but got {size}")
    held_out = max(1, size * 5 // 100)
    train, val, test = np.split(np.arange(size), [size - 2 * held_out, size - held_out])
    return {
        "train": Split(file, train, f"the first 90 % of {name}"),
        "val": Split(file, val, f"the next 5 % of {name}"),
        "test": Split(file, test, f"the last 5 % of {name}"),
    }
