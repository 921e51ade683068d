"""RAVENS: coloured boxes, bowls and blocks on a robot's table, each scene seen by three cameras."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.geometry import Crop, inner_square
from object_discovery.data.readers.cache import Arrays, cached_arrays
from object_discovery.data.readers.hdf5_arrays import ArrayFile, RowSpec
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import Split
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

VIEWS = 3
"""Images of a scene, which follow one another in the file; the first is the view from the front."""
_CROPS: dict[str, Crop] = {"center": (0, 70, 480, 500), "alternative": (232, 50, 238, 540)}
_FRAME = (480, 640)
_FIXED = 4  # labels before the objects: background, table, robot, arm
_NOTHING = 255  # what the simulator writes where it sees nothing at all
_SAMPLE = 16  # scenes that are looked at to find the first object
_ARRAYS = {
    "color": RowSpec(np.uint8, (None, None, 3)),
    "segm": RowSpec(np.integer, (None, None)),
    "num_objects_on_table": RowSpec(np.integer),
}


class RavensFile(SceneSource):
    """The images of one file `ravens_*.h5`.

    The label map `entities` is `segm` as it is stored: 0 the background, 1 the table, 2 the robot, 3 its arm, then the
    objects. `mask` numbers the objects from 1 and has 0 elsewhere. In files whose scenes of n objects have labels up to
    n + 4 instead of n + 3 the arm has two labels, 3 and 4, and the objects begin at 5.

    Args:
        path: The file.

    Raises:
        DatasetNotFoundError: On first use, if there is no such file, or it may not be read.
        CorruptFileError: On first use, if the file is damaged or of another kind.

    Example:
        >>> len(RavensFile("ravens_robot_data_train.h5"))
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: ravens_robot_data_train.h5
    """

    layout = "HDF5"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file = ArrayFile(path, "RAVENS", _ARRAYS)

    def image_files(self) -> list[Path]:
        """Return the file."""
        return [self.file.path]

    def __len__(self) -> int:
        color, segm, scenes = (self.file.length(name) for name in _ARRAYS)
        same_frame = self.file.row_shape("color")[:2] == self.file.row_shape("segm")
        if not color == segm == VIEWS * scenes or not same_frame:
            shapes = {name: (self.file.length(name), *self.file.row_shape(name)) for name in _ARRAYS}
            raise CorruptFileError(
                f"{self.file.path}: expected {VIEWS} images with a label map for each scene, but got {shapes}"
            )
        return color

    @cached_property
    def first_object(self) -> int:
        """Label of the first object in `segm`: 4, or 5 where the arm has two labels."""
        excess = 0
        for scene in range(min(_SAMPLE, len(self) // VIEWS)):
            largest = max(int(np.max(self._labels(VIEWS * scene + view))) for view in range(VIEWS))
            excess = max(excess, largest - int(self.file.row("num_objects_on_table", scene)))
        return _FIXED + 1 if excess == _FIXED else _FIXED

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self.file.close()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image: colours `(H, W, 3)`."""
        image: NDArray[np.uint8] = self.file.row("color", index)
        return image

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps `mask` (objects) and `entities` (whatever is not background)."""
        return self._maps(index, None)

    def scene(self, index: int, crop: Crop | None = None) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        """Read a part of an image and of its label maps (None: all)."""
        return self.file.row("color", index, crop), self._maps(index, crop)

    def _maps(self, index: int, crop: Crop | None) -> dict[str, NDArray[np.uint8]]:
        labels = self._labels(index, crop)
        mask = labels - np.uint8(self.first_object - 1)
        mask[labels < self.first_object] = 0
        return {"mask": mask, "entities": labels}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every image that have a pixel in a part of the frame; kept on the disk once counted."""
        top, left, height, width = crop or (0, 0, *self.file.row_shape("segm"))

        def count() -> Arrays:
            seen = np.zeros((len(self), _NOTHING + 1), bool)
            rows = (row for block in self.file.blocks("segm") for row in block)
            for index, row in enumerate(rows):
                seen[index, self._checked(row, index)[top : top + height, left : left + width]] = True
            return {"counts": seen[:, self.first_object :].sum(axis=1, dtype=np.int64)}

        return np.array(cached_arrays(self.file.path, "counts", (top, left, height, width), count)["counts"])

    def _labels(self, index: int, crop: Crop | None = None) -> NDArray[np.uint8]:
        return self._checked(self.file.row("segm", index, crop), index)

    def _checked(self, labels: NDArray[Any], index: int) -> NDArray[np.uint8]:
        if labels.dtype != np.uint8:
            labels = np.where(labels == -1, _NOTHING, labels)
            if not 0 <= np.min(labels) <= np.max(labels) <= _NOTHING:
                got = f"{labels.min()} to {labels.max()} in row {index}"
                raise CorruptFileError(f"{self.file.path}: expected `segm` to hold -1 to {_NOTHING}, but got {got}")
        numbers: NDArray[np.uint8] = labels.astype(np.uint8)
        numbers[numbers == _NOTHING] = 0
        return numbers


class RavensDataModule(SceneDataModule):
    """RAVENS (see `SceneDataModule` for what all datasets share); 3 to 8 objects lie on the table.

    `mask` has the objects alone, for FG-ARI; `entities` has table, robot and arm besides (see `RavensFile`).

    *Variants.* `center` keeps rows 0 to 479 and columns 70 to 569 of the 480 x 640 frames, and all three views of each
    scene. `alternative` keeps rows 232 to 469 and columns 50 to 589, and only the first view. Either is squashed to
    `resolution` (`fit` None or squash) or cut to its central square (`fit` crop), bilinearly without antialiasing,
    masks to the nearest pixel. Other frames are kept whole.

    *Splits.* `data_root` is a folder with a file `ravens_*_train.h5`, one `ravens_*_test.h5`, or both; or one of these
    files. All of the former trains. Of the latter the first fifth of the scenes validates and the rest tests (of the
    published 5,000 scenes 1,000 and 4,000), so that no scene is in both. Without a test file the last 15 % of the
    training scenes validate instead, and nothing tests.

    Objects are counted in each image after the crop: when first needed, which takes minutes, and then cached next to
    the file or in the user's cache folder.

    Reference:
        Zeng et al., Transporter Networks, arXiv:2010.14406 (the simulator); github.com/HHousen/ravens (the scenes).
    """

    name = "ravens"
    recommended = RECOMMENDED["ravens"]
    variants = ("center", "alternative")

    def _crop(self, frame: tuple[int, ...]) -> Crop | None:
        published = frame == _FRAME
        crop = _CROPS[self.params.variant or self.variants[0]] if published else (0, 0, frame[0], frame[1])
        if self.params.fit == "crop" and crop[2] != crop[3]:
            return inner_square(crop)
        return crop if published else None

    def _find_splits(self, root: str) -> dict[str, Split]:
        files = _find_files(Path(root).expanduser())
        step = VIEWS if self.params.variant == "alternative" else 1
        splits: dict[str, Split] = {}
        if "train" in files:
            splits = _cut(files["train"], ("train", "val"), 85, step)
        if "test" in files:
            splits |= _cut(files["test"], ("val", "test"), 20, step)
            if "train" in files:
                train = files["train"]
                splits["train"] = Split(train, np.arange(0, len(train), step), f"the whole of {train.file.path.name}")
        return splits


def _cut(source: RavensFile, names: tuple[str, str], percent: int, step: int) -> dict[str, Split]:
    """Cut a file into two splits between scenes, the first with so many of them, and take every `step`-th image."""
    scenes, file = len(source) // VIEWS, source.file.path.name
    if scenes < 2:
        raise UserError(
            f"Expected at least 2 scenes in {file} to split into {names[0]} and {names[1]}, but got {scenes}"
        )
    end = VIEWS * max(1, scenes * percent // 100)
    first, last = np.arange(0, end, step), np.arange(end, len(source), step)
    return {
        names[0]: Split(source, first, f"the first {percent} % of the scenes of {file}"),
        names[1]: Split(source, last, f"the last {100 - percent} % of the scenes of {file}"),
    }


def _find_files(root: Path) -> dict[str, RavensFile]:
    if not root.exists():
        raise DatasetNotFoundError(f"Expected argument `data_root` to hold RAVENS, but {root} does not exist")
    files = sorted(root.iterdir()) if root.is_dir() else [root]
    opened: dict[str, RavensFile] = {}
    for split in ("train", "test"):
        named = [file for file in files if file.suffix in (".h5", ".hdf5") and file.stem.endswith(f"_{split}")]
        named = [file for file in named if file.name.startswith("ravens_")] or named
        if len(named) > 1:
            names = ", ".join(file.name for file in named)
            raise UserError(f"Expected one file ravens_*_{split}.h5 in {root}, but got {names}: move the others away")
        if named:
            opened[split] = RavensFile(named[0])
    if not opened:
        raise DatasetNotFoundError(
            "Expected argument `data_root` to be a folder with ravens_*_train.h5 or ravens_*_test.h5, or one of "
            f"these files, but found neither at {root}: {RavensDataModule.how_to_get}"
        )
    return opened
