"""3D Shapes: one object in a coloured room, rendered in every combination of six factors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.geometry import Crop
from object_discovery.data.readers.cache import cached_file
from object_discovery.data.readers.deflate import deflate
from object_discovery.data.readers.hdf5_arrays import ArrayFile, RowSpec
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import Split
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
"""The columns of the target `factors`."""
_ENDS = {"train": 400_000, "val": 430_000, "test": 460_000}
_ARRAYS = {"images": RowSpec(np.uint8, (None, None, 3)), "labels": RowSpec(np.number, (len(FACTORS),))}
_MANY = 8  # images that are decompressed to read one, from which on a rearranged copy pays


class Shapes3DFile(SceneSource):
    """The images and factors of `3dshapes.h5`, or of a part of it.

    A chunk of the published file holds a few pixels of 15,000 images, so that reading one image decompresses 15,000.
    Such a file is copied once, image by image (about 0.6 KB each), beside it or in the user's cache folder; shuffled
    reading is then as fast as reading in order. Files with at most eight images to a chunk are read as they are.

    Args:
        path: The file.

    Raises:
        DatasetNotFoundError: On first use, if there is no such file, or it may not be read.
        CorruptFileError: On first use, if the file is damaged or of another kind.
        UserError: On first use, if the copy can be written nowhere.

    Example:
        >>> len(Shapes3DFile("3dshapes.h5"))
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: 3dshapes.h5
    """

    layout = "HDF5"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file = ArrayFile(path, "3D Shapes", _ARRAYS)
        self._images: ArrayFile | None = None
        self._factors: NDArray[np.float32] | None = None

    def image_files(self) -> list[Path]:
        """Return the file."""
        return [self.file.path]

    def __len__(self) -> int:
        size = self.file.length("images")
        if self.file.length("labels") != size:
            got = f"{size} images and {self.file.length('labels')} labels"
            raise CorruptFileError(f"{self.file.path}: expected labels for every image, but got {got}")
        return size

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        for file in (self.file, self._images):
            if file is not None:
                file.close()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image: colours `(H, W, 3)`."""
        if self._images is None:
            many = self.file.rows_per_chunk("images") > _MANY
            self._images = ArrayFile(_rearranged(self.file), "3D Shapes", _ARRAYS) if many else self.file
        image: NDArray[np.uint8] = self._images.row("images", index)
        return image

    def targets(self, index: int) -> dict[str, NDArray[Any]]:
        """Read the target `factors`, float32 `(6,)`, see `FACTORS`."""
        if self._factors is None:
            self._factors = np.concatenate(list(self.file.blocks("labels", 1 << 20))).astype(np.float32)
        return {"factors": self._factors[index].copy()}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene: always 1."""
        return np.ones(len(self), np.int64)


class Shapes3DDataModule(SceneDataModule):
    """3D Shapes, without label maps: only the reconstruction can be scored (see `SceneDataModule` for the rest).

    Batches hold `image` and `factors` float32 `(B, 6)`: hue of floor, wall and object, scale, shape, orientation.
    Images of 64 x 64 pixels, with one object each, are resized bilinearly where `resolution` is another.

    `data_root` is the file `3dshapes.h5` or the folder that holds it. It is split as for SLATE: images 0 to 399,999 to
    train, 400,000 to 429,999 to validate, 430,000 to 459,999 to test; the last 20,000 are left out. A file of fewer
    than 460,000 images, such as a part of it, is split in the same proportion, 40 : 3 : 3, in file order, each split
    with at least one image and none left out.

    Reference:
        Burgess and Kim, 3D Shapes Dataset, 2018, github.com/google-deepmind/3d-shapes; Singh et al., Illiterate DALL-E
        Learns to Compose, arXiv:2110.11405.
    """

    name = "shapes3d"
    recommended = RECOMMENDED["shapes3d"]

    def _find_splits(self, root: str) -> dict[str, Split]:
        file = Shapes3DFile(_find_file(Path(root).expanduser()))
        ends, rule = _split_ends(len(file))
        starts = [0, *ends.values()]
        return {
            split: Split(file, np.arange(start, end), rule)
            for start, (split, end) in zip(starts, ends.items(), strict=False)
        }


def _find_file(root: Path) -> Path:
    if not root.exists():
        raise DatasetNotFoundError(f"Expected argument `data_root` to hold 3dshapes.h5, but {root} does not exist")
    if root.is_file():
        return root
    files = sorted(path for path in root.iterdir() if path.suffix in (".h5", ".hdf5"))
    named = [path for path in files if path.name == "3dshapes.h5"] or files
    if len(named) != 1:
        names = ", ".join(path.name for path in named) or "no HDF5 file"
        raise DatasetNotFoundError(
            f"Expected argument `data_root` to hold 3dshapes.h5, but {root} holds {names}: "
            f"{Shapes3DDataModule.how_to_get}"
        )
    return named[0]


def _split_ends(size: int) -> tuple[dict[str, int], str]:
    """Return where each split ends, in file order, and the rule in words."""
    if size >= _ENDS["test"]:
        return _ENDS, "as published: the first 400,000 images to train, the next 30,000 to validate and 30,000 to test"
    if size < 3:
        raise UserError(f"Expected at least 3 images of 3D Shapes to split, but got {size}")
    held_out = max(1, size * 3 // 46)
    ends = {"train": size - 2 * held_out, "val": size - held_out, "test": size}
    return ends, "in file order, 40 : 3 : 3 to train, validate and test"


def _rearranged(file: ArrayFile) -> Path:
    """Return a copy of the file with a chunk for each image, which is made if there is none."""

    def write(path: Path) -> None:
        shape = (file.length("images"), *file.row_shape("images"))
        with h5py.File(path, "w", libver=("earliest", "v110")) as copy:
            images = copy.create_dataset("images", shape, "u1", chunks=(1, *shape[1:]), compression="gzip")
            index = 0
            for block in file.blocks("images"):
                for image in block:
                    images.id.write_direct_chunk((index, 0, 0, 0), deflate(image))
                    index += 1
            copy["labels"] = np.concatenate(list(file.blocks("labels", 1 << 20)))

    path = cached_file(file.path, "a chunk an image", "images", write, _is_whole)
    if path is None:
        raise UserError(
            f"Expected room for a copy of {file.path}, rearranged for shuffled reading (up to 1 KB an image), beside "
            "it or in the cache folder: free some, or set XDG_CACHE_HOME to a folder on a disk with room"
        )
    return path


def _is_whole(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "labels" in file
    except OSError:
        return False
