"""One HDF5 layout for all datasets with masks, and a reader for it and for the published conversions.

Our layout, version 1, which any HDF5 library reads without a plugin:

- attributes `format` (`object_discovery`), `version`, `dataset`, `variant`, `source`, `source_size`;
- `image` uint8 `(N, H, W, C)` and `mask` uint8 `(N, H, W)`, a label map: 0 is the background, k the k-th object, 255 a
  pixel that no entity covers; deflated, one chunk a scene, but images with a published crop in strips of columns, see
  `strip_width`, so that the crop is read without the rest;
- `counts/frame` int32 `(N, E)`, the pixels of each label in the frame, and `counts/crop` within the dataset's published
  crop, which its attribute `crop` gives as top, left, height and width;
- `factors/<name>`, what the source says besides, under its names there, `(N, ...)`.

The published conversions hold `mask` as 0 or 255 for each entity, `(N, E, H, W, 1)` or `(N, H, W, E, 1)`, and what they
say besides next to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, cut
from object_discovery.data.label_maps import count_pixels, label_map
from object_discovery.data.readers.cache import Arrays, cached_arrays
from object_discovery.data.readers.hdf5_errors import hdf5_errors, open_hdf5
from object_discovery.data.readers.multi_object_datasets import find_schema
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.readers.strips import Strips, deflate, deflate_strips, strip_width
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError

FORMAT = "object_discovery"
VERSION = 1
_BLOCK_BYTES = 1 << 25  # masks read at once when objects are counted


class Scene(NamedTuple):
    """A scene as the file stores it."""

    image: tuple[bytes, ...]
    """The strips of the image, deflated."""
    mask: bytes
    """The label map, deflated."""
    columns: dict[str, NDArray[Any]]
    """A row of each small dataset, by its path in the file, such as `counts/frame`."""


def pack_scene(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], columns: dict[str, NDArray[Any]], crop: Crop | None = None
) -> Scene:
    """Compress a scene.

    Args:
        image: The image `(H, W, C)`.
        labels: The label map `(H, W)`.
        columns: What else to store, see `Scene`.
        crop: The published crop of the dataset.

    Returns:
        The scene as the file stores it.
    """
    return Scene(deflate_strips(image, strip_width(image.shape[1], crop)), deflate(labels), columns)


def write_scenes(
    path: str | os.PathLike[str],
    scenes: Iterable[Scene],
    num_scenes: int,
    image: tuple[int, int, int],
    attributes: dict[str, Any],
    crop: Crop | None = None,
) -> None:
    """Write a file in our layout; the same scenes give the same bytes.

    Args:
        path: The file to write.
        scenes: At least `num_scenes` scenes with the same columns.
        num_scenes: How many of them to write, N; at least 1.
        image: Height, width and channels.
        attributes: The file's attributes besides `format` and `version`.
        crop: The published crop of the dataset, in which the column `counts/crop` counts.
    """
    options: dict[str, Any] = {"dtype": "u1", "compression": "gzip", "compression_opts": 1, "track_times": False}
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, **attributes})
        width = strip_width(image[1], crop)
        chunks = (1, image[0], width, image[2])
        images = file.create_dataset("image", (num_scenes, *image), chunks=chunks, **options)
        masks = file.create_dataset("mask", (num_scenes, *image[:2]), chunks=(1, *image[:2]), **options)
        columns: dict[str, NDArray[Any]] = {}
        for index, scene in zip(range(num_scenes), scenes, strict=False):
            for number, strip in enumerate(scene.image):
                images.id.write_direct_chunk((index, 0, number * width, 0), strip)
            masks.id.write_direct_chunk((index, 0, 0), scene.mask)
            for name, row in scene.columns.items():
                if index == 0:
                    columns[name] = np.empty((num_scenes, *row.shape), row.dtype)
                columns[name][index] = row
        for name in sorted(columns):
            file.create_dataset(name, data=columns[name], track_times=False)
        if crop is not None:
            file["counts/crop"].attrs["crop"] = np.array(crop, np.int32)


class _Contents:
    """An open file and what is where in it."""

    def __init__(self, path: Path) -> None:
        self.file = open_hdf5(path, "scenes")
        self.path = path
        try:
            with hdf5_errors(path, "expected an HDF5 file of scenes, but it is damaged"):
                self._find(path)
        except CorruptFileError:
            self.file.close()
            raise

    def _find(self, path: Path) -> None:
        file = self.file
        for name in ("image", "mask"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise CorruptFileError(f"{path}: expected an HDF5 file of scenes, but it has no dataset `{name}`")
        self.image, self.mask = file["image"], file["mask"]
        ours = file.attrs.get("format") == FORMAT
        if ours and file.attrs.get("version", 0) > VERSION:
            raise CorruptFileError(f"{path}: written by a newer version of the library; update the library to read it")
        frame = self.image.shape[1:3]
        if self.image.dtype != np.uint8 or self.image.ndim != 4 or self.image.shape[3] not in (1, 3):
            got = f"{self.image.dtype} {self.image.shape}"
            raise CorruptFileError(f"{path}: expected `image` to be uint8 (N, H, W, 1 or 3), but got {got}")
        self.entity_axis = None if ours else _entity_axis(self.mask.shape[1:], frame)
        is_map = ours and self.mask.shape[1:] == frame
        if self.mask.shape[:1] != self.image.shape[:1] or not (is_map or self.entity_axis is not None):
            got = f"{self.mask.shape} with images of {self.image.shape}"
            raise CorruptFileError(f"{path}: expected `mask` to have a map for each image, but got {got}")
        self._recognise(ours)
        self.size = int(self.image.shape[0])
        self.strips = {"image": Strips.of(self.image), "mask": Strips.of(self.mask)}

    def _recognise(self, ours: bool) -> None:
        file, known, root = self.file, None, self.file
        self.dataset: str | None = None
        self.variant: str | None = None
        if ours:
            root = file.get("factors", {})
            self.dataset, self.variant = file.attrs.get("dataset"), file.attrs.get("variant")
        else:
            entities = self.mask.shape[1 + (self.entity_axis or 0)]
            known = find_schema(self.image.shape[1:], entities, "visibility" in file)
            if known:
                self.dataset, self.variant = known.name, known.variant
        self.background_entities = known.background_entities if known else 1
        self.factors = {
            name: data
            for name, data in root.items()
            if name not in ("image", "mask")
            and isinstance(data, h5py.Dataset)
            and data.shape[:1] == self.image.shape[:1]
        }

    def labels(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the label map of one scene's row of `mask`."""
        if self.entity_axis is None:
            return np.asarray(mask, np.uint8)
        masks = np.moveaxis(mask, self.entity_axis, 0)
        return label_map(masks.reshape(len(masks), *self.image.shape[1:3]), self.background_entities)

    def stored_counts(self, crop: Crop) -> NDArray[np.int32] | None:
        """Return the pixels of each label `(N, E)` in a crop, or None if the file does not say."""
        name = "crop"
        if crop == (0, 0, *self.image.shape[1:3]):
            name = "frame"
        with hdf5_errors(self.path, "cannot read `counts`"):
            counts = self.file.get("counts", {}).get(name)
            if counts is None or (name == "crop" and crop != tuple(counts.attrs["crop"].tolist())):
                return None
            stored: NDArray[np.int32] = counts[:]
            return stored


def _entity_axis(row: tuple[int, ...], frame: tuple[int, int]) -> int | None:
    """Find the axis of the entities in a row of masks, for frames of this height and width."""
    for axis, size in enumerate(row):
        rest = row[:axis] + row[axis + 1 :]
        if size > 1 and tuple(length for length in rest if length > 1) == frame:
            return axis
    return None


def _count_block(contents: _Contents, block: NDArray[Any], crop: Crop) -> NDArray[np.int64]:
    pixels = np.stack([count_pixels(contents.labels(row), IGNORED, crop) for row in block])
    return _count_objects(pixels)


def _count_objects(pixels: NDArray[np.int32]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.sum(pixels[:, 1:] > 0, axis=1, dtype=np.int64)
    return counts


class SceneFile(SceneSource):
    """Scenes with masks in an HDF5 file, in our layout or in a published one.

    The file is opened when first needed, and again in each process, so that the object can be pickled and forked.

    Args:
        path: The file.

    Raises:
        DatasetNotFoundError: On first use, if there is no such file, or it may not be read.
        CorruptFileError: On first use, if the file is damaged or of another kind.

    Example:
        >>> SceneFile("clevr.h5").dataset
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: clevr.h5
    """

    layout = "HDF5"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._opened: tuple[int, _Contents] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def __len__(self) -> int:
        return self._contents.size

    def image_files(self) -> list[Path]:
        """Return the file."""
        return [self.path]

    @property
    def _contents(self) -> _Contents:
        if self._opened is None or self._opened[0] != os.getpid():
            self.close()
            self._opened = os.getpid(), _Contents(self.path)
        return self._opened[1]

    @property
    def dataset(self) -> str | None:
        """Name of the dataset, or None if it is not known."""
        return self._contents.dataset

    @property
    def variant(self) -> str | None:
        """Variant of the dataset, or None if it has none."""
        return self._contents.variant

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._opened is not None:
            self._opened[1].file.close()
            self._opened = None

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image.

        Args:
            index: Number of the scene.

        Returns:
            Colours `(H, W, 3)`; an image of one channel is repeated.
        """
        return self._image(index, None)

    def _image(self, index: int, crop: Crop | None) -> NDArray[np.uint8]:
        image = self._part("image", index, crop)
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Read a label map.

        Args:
            index: Number of the scene.

        Returns:
            Labels `(H, W)`: 0 is the background, 255 is ignored.
        """
        return self._mask(index, None)

    def _mask(self, index: int, crop: Crop | None) -> NDArray[np.uint8]:
        contents = self._contents
        if contents.entity_axis is None:
            return contents.labels(self._part("mask", index, crop))
        return cut(contents.labels(self._part("mask", index, None)), crop)

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label map of a scene, under the key `mask`."""
        return {"mask": self.mask(index)}

    def scene(self, index: int, crop: Crop | None = None) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        """Read a part of an image and of its label map; of our files that part only.

        Args:
            index: Number of the scene.
            crop: The part, inside the frame. None: the frame.

        Returns:
            Colours `(h, w, 3)`, and the label map `(h, w)` under the key `mask`.
        """
        return self._image(index, crop), {"mask": self._mask(index, crop)}

    def factors(self, index: int) -> dict[str, NDArray[Any]]:
        """Read what else the file says about a scene.

        Args:
            index: Number of the scene.

        Returns:
            For each name a number or an array, mostly a row for each entity.
        """
        return {name: np.asarray(self._read(data, index)) for name, data in self._contents.factors.items()}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene.

        Our files say it for the frame and for the dataset's published crop. Elsewhere the masks are counted once, and
        the counts are cached next to the file or, where that cannot be written, in the user's cache folder.

        Args:
            crop: Count the objects that have a pixel in this part of the frame. None: in the frame.

        Returns:
            Number of objects of each scene, `(N,)`.

        Raises:
            ValueError: If the crop is not inside the frame.
        """
        contents = self._contents
        height, width = contents.image.shape[1:3]
        top, left, rows, columns = crop = crop or (0, 0, height, width)
        if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
            raise ValueError(f"Expected argument `crop` to be inside the frame of {height} x {width}, but got {crop!r}")
        stored = contents.stored_counts(crop)
        if stored is not None:
            return _count_objects(stored)

        def count() -> Arrays:
            return {"counts": np.concatenate([_count_block(contents, block, crop) for block in self._blocks()])}

        return np.array(cached_arrays(self.path, "counts", crop, count)["counts"])

    def _blocks(self) -> Iterable[NDArray[Any]]:
        mask = self._contents.mask
        rows = max(1, _BLOCK_BYTES // int(np.prod(mask.shape[1:])))
        if mask.chunks:
            rows = -(-rows // mask.chunks[0]) * mask.chunks[0]
        for start in range(0, len(self), rows):
            yield self._read(mask, slice(start, start + rows))

    def _part(self, name: str, index: int, crop: Crop | None) -> NDArray[np.uint8]:
        """Read a part of a scene's `image` or `mask`."""
        contents = self._contents
        strips = contents.strips[name]
        if strips is None:
            return cut(self._read(contents.image if name == "image" else contents.mask, index), crop)
        index = range(contents.size)[index]
        with hdf5_errors(self.path, f"cannot read `/{name}` of scene {index}"):
            return strips.read(index, crop)

    def _read(self, data: h5py.Dataset, index: int | slice) -> NDArray[Any]:
        if not isinstance(index, slice):
            index = range(len(self))[index]
        with hdf5_errors(self.path, f"cannot read `{data.name}` of scene {index}"):
            return np.asarray(data[index])
