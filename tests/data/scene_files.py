"""Writers of HDF5 files of scenes, in our format and in that of the published conversions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from object_discovery.data.readers.hdf5_scenes import CompressedScene, compress_scene, write_scenes

Bytes = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]


def make_scenes(counts: list[int], height: int = 35, width: int = 35) -> tuple[Bytes, Bytes]:
    """Generate random images, and label maps with these numbers of objects; object k has two pixels in row k."""
    images = np.random.default_rng(0).integers(0, 256, (len(counts), height, width, 3)).astype(np.uint8)
    labels = np.zeros((len(counts), height, width), dtype=np.uint8)
    for scene, count in enumerate(counts):
        for label in range(1, count + 1):
            labels[scene, height // 2 + label, width // 2 + 2 * label : width // 2 + 2 * label + 2] = label
    return images, labels


def write_published(path: Path, images: Bytes, labels: Bytes, entities: int, entities_last: bool = False) -> None:
    """Write the format of the published conversions: a mask of 0 or 255 for each entity."""
    masks = 255 * (labels[:, None] == np.arange(entities)[:, None, None]).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["image"] = images
        file["mask"] = np.moveaxis(masks, 1, 3)[..., None] if entities_last else masks[..., None]
        file["visibility"] = masks.any((2, 3)).astype(np.float32)


def write_own(
    path: Path,
    images: Bytes,
    labels: Bytes,
    dataset: str,
    entities: int,
    crop: Crop | None = None,
    variant: str | None = None,
) -> None:
    """Write our own format."""

    def count(label_map: Bytes) -> npt.NDArray[np.int32]:
        return np.array([(label_map == label).sum() for label in range(entities)], dtype=np.int32)

    def scene(image: Bytes, label_map: Bytes) -> CompressedScene:
        columns = {"counts/frame": count(label_map)}
        if crop is not None:
            top, left, height, width = crop
            columns["counts/crop"] = count(label_map[top : top + height, left : left + width])
        return compress_scene(image, label_map, columns, crop)

    attributes = {"dataset": dataset} | ({"variant": variant} if variant else {})
    scenes = map(scene, images, labels)
    write_scenes(path, scenes, len(images), (images.shape[1], images.shape[2], images.shape[3]), attributes, crop)
