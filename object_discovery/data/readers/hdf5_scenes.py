"""HDF5 files of images with label maps: our format, and a reader that also takes the published conversions.

Our format, version 1, which any HDF5 library can read:

- attributes `format` (`object_discovery`), `version`, `dataset`, `variant`, `source`, `source_size`;
- `image` uint8 `(N, H, W, C)` and `mask` uint8 `(N, H, W)`, a label map: 0 background, k the k-th object, 255 a pixel
  that no entity covers. Both are deflated, one chunk per scene; images of a dataset with a published crop are chunked
  into vertical strips, see `strip_width`, so that the crop is read without the rest;
- `counts/frame` int32 `(N, E)`, the number of pixels of each label, and `counts/crop`, the same within the dataset's
  published crop, which is its attribute `crop` (top, left, height, width);
- `factors/<name>` `(N, ...)`, all other features of the source under their names.

The published conversions have a `mask` of 0 or 255 for each entity, `(N, E, H, W, 1)` or `(N, H, W, E, 1)`, and the
other features at the top level.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, crop_array
from object_discovery.data.label_maps import count_pixels, label_map
from object_discovery.data.readers.cache import Arrays, cached_arrays
from object_discovery.data.readers.deflate import deflate
from object_discovery.data.readers.hdf5_errors import hdf5_errors, open_hdf5
from object_discovery.data.readers.multi_object_datasets import find_schema
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.readers.strips import Strips, deflate_strips, strip_width
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError

FORMAT = "object_discovery"
"""Attribute `format` of our files."""
VERSION = 1
"""Attribute `version` of our files."""
_BLOCK_BYTES = 1 << 25  # bytes of masks that are read at once to count objects


class CompressedScene(NamedTuple):
    """Compressed image and label map of a scene, ready to be written to a file."""

    image: tuple[bytes, ...]
    """zlib streams of the image's strips."""
    mask: bytes
    """zlib stream of the label map."""
    columns: dict[str, NDArray[Any]]
    """Row of each uncompressed dataset by its path in the file, such as `counts/frame`."""


def compress_scene(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], columns: dict[str, NDArray[Any]], crop: Crop | None = None
) -> CompressedScene:
    """Compress a scene.

    Args:
        image: Image, uint8 `(H, W, C)`.
        labels: Label map, uint8 `(H, W)`.
        columns: Other values of the scene, see `CompressedScene`.
        crop: Published crop of the dataset.

    Returns:
        The compressed scene.
    """
    return CompressedScene(deflate_strips(image, strip_width(image.shape[1], crop)), deflate(labels), columns)


def write_scenes(
    path: str | os.PathLike[str],
    scenes: Iterable[CompressedScene],
    num_scenes: int,
    image: tuple[int, int, int],
    attributes: dict[str, Any],
    crop: Crop | None = None,
) -> None:
    """Write a file in our format; equal scenes give equal bytes.

    Args:
        path: The file to write.
        scenes: At least `num_scenes` scenes with the same columns.
        num_scenes: Number N of scenes to write, at least 1.
        image: Height, width and channels of the images.
        attributes: Attributes of the file other than `format` and `version`.
        crop: Published crop of the dataset, to which the column `counts/crop` refers.
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
    """Open file of scenes and the layout of its datasets.

    Attributes:
        entity_axis: Axis of the entities in a row of `mask`. None: `mask` is a label map.
        strips: Strips of `image` and `mask`, where they have them.
        factors: Datasets with one row per scene, other than `image` and `mask`.
    """

    def __init__(self, path: Path) -> None:
        self.file = open_hdf5(path, "scenes")
        self.path = path
        try:
            with hdf5_errors(path, "expected an HDF5 file of scenes, but it is damaged"):
                self._find_datasets()
        except CorruptFileError:
            self.file.close()
            raise

    def _find_datasets(self) -> None:
        file, path = self.file, self.path
        for name in ("image", "mask"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise CorruptFileError(f"{path}: expected an HDF5 file of scenes, but it has no dataset `{name}`")
        self.image, self.mask = file["image"], file["mask"]
        is_ours = file.attrs.get("format") == FORMAT
        if is_ours and file.attrs.get("version", 0) > VERSION:
            raise CorruptFileError(f"{path}: written by a newer version of the library; update the library to read it")
        frame = self.image.shape[1:3]
        if self.image.dtype != np.uint8 or self.image.ndim != 4 or self.image.shape[3] not in (1, 3):
            got = f"{self.image.dtype} {self.image.shape}"
            raise CorruptFileError(f"{path}: expected `image` to be uint8 (N, H, W, 1 or 3), but got {got}")
        self.entity_axis = None if is_ours else _find_entity_axis(self.mask.shape[1:], frame)
        is_label_map = is_ours and self.mask.shape[1:] == frame
        if self.mask.shape[:1] != self.image.shape[:1] or not (is_label_map or self.entity_axis is not None):
            got = f"{self.mask.shape} with images of {self.image.shape}"
            raise CorruptFileError(f"{path}: expected `mask` to have a map for each image, but got {got}")
        self._identify_dataset(is_ours)
        self.size = int(self.image.shape[0])
        self.strips = {"image": Strips.from_dataset(self.image), "mask": Strips.from_dataset(self.mask)}

    def _identify_dataset(self, is_ours: bool) -> None:
        file, schema, group = self.file, None, self.file
        self.dataset: str | None = None
        self.variant: str | None = None
        if is_ours:
            group = file.get("factors", {})
            self.dataset, self.variant = file.attrs.get("dataset"), file.attrs.get("variant")
        else:
            entities = self.mask.shape[1 + (self.entity_axis or 0)]
            schema = find_schema(self.image.shape[1:], entities, "visibility" in file)
            if schema:
                self.dataset, self.variant = schema.name, schema.variant
        self.background_entities = schema.background_entities if schema else 1
        self.factors = {
            name: data
            for name, data in group.items()
            if name not in ("image", "mask")
            and isinstance(data, h5py.Dataset)
            and data.shape[:1] == self.image.shape[:1]
        }

    def labels(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert one row of `mask` to a label map."""
        if self.entity_axis is None:
            return np.asarray(mask, np.uint8)
        masks = np.moveaxis(mask, self.entity_axis, 0)
        return label_map(masks.reshape(len(masks), *self.image.shape[1:3]), self.background_entities)

    def count_objects(self, block: NDArray[Any], crop: Crop) -> NDArray[np.int64]:
        """Count the objects of consecutive rows of `mask` that have a pixel in a crop."""
        return _count_objects(np.stack([count_pixels(self.labels(row), IGNORED, crop) for row in block]))

    def stored_counts(self, crop: Crop) -> NDArray[np.int32] | None:
        """Return the stored number of pixels of each label in a crop, `(N, E)`; None if the file has none."""
        name = "crop"
        if crop == (0, 0, *self.image.shape[1:3]):
            name = "frame"
        with hdf5_errors(self.path, "cannot read `counts`"):
            counts = self.file.get("counts", {}).get(name)
            if counts is None or (name == "crop" and crop != tuple(counts.attrs["crop"].tolist())):
                return None
            stored: NDArray[np.int32] = counts[:]
            return stored


def _find_entity_axis(row: tuple[int, ...], frame: tuple[int, int]) -> int | None:
    """Find the axis of the entities in the shape of a row of masks, given the height and width of the images."""
    for axis, size in enumerate(row):
        rest = row[:axis] + row[axis + 1 :]
        if size > 1 and tuple(length for length in rest if length > 1) == frame:
            return axis
    return None


def _count_objects(pixels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count the labels from 1 on that have a pixel, given the number of pixels of each label, `(N, E)`."""
    counts: NDArray[np.int64] = np.sum(pixels[:, 1:] > 0, axis=1, dtype=np.int64)
    return counts


class SceneFile(SceneSource):
    """Images and label maps of an HDF5 file, in our format or in that of the published conversions.

    The file is opened lazily in each process, so that the object can be pickled and forked.

    Args:
        path: The file.

    Raises:
        DatasetNotFoundError: On first use, if the file does not exist or is not readable.
        CorruptFileError: On first use, if the file is damaged or has another layout.

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
        """Name of the dataset; None if it cannot be identified."""
        return self._contents.dataset

    @property
    def variant(self) -> str | None:
        """Variant of the dataset; None if it has none."""
        return self._contents.variant

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._opened is not None:
            self._opened[1].file.close()
            self._opened = None

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image.

        Args:
            index: Index of the scene.

        Returns:
            RGB image, uint8 `(H, W, 3)`; a single channel is repeated.
        """
        return self._image(index, None)

    def _image(self, index: int, crop: Crop | None) -> NDArray[np.uint8]:
        image = self._crop("image", index, crop)
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Read a label map.

        Args:
            index: Index of the scene.

        Returns:
            Labels, uint8 `(H, W)`: 0 background, 255 ignored.
        """
        return self._mask(index, None)

    def _mask(self, index: int, crop: Crop | None) -> NDArray[np.uint8]:
        contents = self._contents
        if contents.entity_axis is None:
            return contents.labels(self._crop("mask", index, crop))
        return crop_array(contents.labels(self._crop("mask", index, None)), crop)

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label map of a scene under the key `mask`."""
        return {"mask": self.mask(index)}

    def scene(self, index: int, crop: Crop | None = None) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        """Read a crop of an image and of its label map; of our files nothing else is decompressed.

        Args:
            index: Index of the scene.
            crop: Crop inside the image. None: the whole image.

        Returns:
            RGB image `(h, w, 3)`, and the label map `(h, w)` under the key `mask`.
        """
        return self._image(index, crop), {"mask": self._mask(index, crop)}

    def factors(self, index: int) -> dict[str, NDArray[Any]]:
        """Read the other features of a scene, such as positions of the entities.

        Args:
            index: Index of the scene.

        Returns:
            A number or an array by name; most have one row per entity.
        """
        return {name: np.asarray(self._read(data, index)) for name, data in self._contents.factors.items()}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene that have a pixel in a crop.

        Our files store the counts of the whole image and of the published crop. Otherwise the objects are counted once,
        and the counts are cached next to the file or, where that is not writable, in the user's cache folder.

        Args:
            crop: Crop inside the image. None: the whole image.

        Returns:
            Number of objects of each scene, `(N,)`.

        Raises:
            ValueError: If the crop is not inside the image.
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
            return {"counts": np.concatenate([contents.count_objects(block, crop) for block in self._blocks()])}

        return np.array(cached_arrays(self.path, "counts", crop, count)["counts"])

    def _blocks(self) -> Iterable[NDArray[Any]]:
        """Read all rows of `mask`, in blocks of whole chunks."""
        mask = self._contents.mask
        rows = max(1, _BLOCK_BYTES // int(np.prod(mask.shape[1:])))
        if mask.chunks:
            rows = -(-rows // mask.chunks[0]) * mask.chunks[0]
        for start in range(0, len(self), rows):
            yield self._read(mask, slice(start, start + rows))

    def _crop(self, name: str, index: int, crop: Crop | None) -> NDArray[np.uint8]:
        """Read a crop of one row of `image` or `mask`."""
        contents = self._contents
        strips = contents.strips[name]
        if strips is None:
            return crop_array(self._read(contents.image if name == "image" else contents.mask, index), crop)
        index = range(contents.size)[index]
        with hdf5_errors(self.path, f"cannot read `/{name}` of scene {index}"):
            return strips.read(index, crop)

    def _read(self, data: h5py.Dataset, index: int | slice) -> NDArray[Any]:
        if not isinstance(index, slice):
            index = range(len(self))[index]
        with hdf5_errors(self.path, f"cannot read `{data.name}` of scene {index}"):
            return np.asarray(data[index])
