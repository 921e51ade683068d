"""The same scenes in three layouts: the library's HDF5, the reference conversion's HDF5, and a folder of PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import h5py
from numpy.typing import NDArray
from PIL import Image

from object_discovery.benchmarks.records import ENTITIES, HEIGHT, WIDTH, entity_masks
from object_discovery.data.conversion.tfrecords_to_hdf5 import default_workers
from object_discovery.data.geometry import Crop
from object_discovery.data.label_maps import count_pixels, label_map
from object_discovery.data.readers.hdf5_scenes import CompressedScene, SceneFile, compress_scene, write_scenes

Features: TypeAlias = dict[str, NDArray[Any]]
"""Features of a scene, in the shapes of the reference conversion."""
CROP: Crop = (29, 64, 192, 192)
"""The published crop of CLEVR with masks."""
_PNG_SIZE = (480, 320)  # width and height of the images of CLEVR v1.0


def read_features(file: SceneFile, indices: Iterable[int]) -> list[Features]:
    """Read scenes of CLEVR with masks in the shapes of the reference conversion.

    Args:
        file: The scenes.
        indices: Indices of the scenes to read.

    Returns:
        For each scene `image` `(240, 320, 3)`, `mask` `(11, 240, 320, 1)` of 0 or 255, and all its factors.
    """
    return [
        {"image": file.image(index), "mask": entity_masks(file.mask(index)), **file.factors(index)} for index in indices
    ]


def write_library_layout(path: str | os.PathLike[str], scenes: Sequence[Features]) -> int:
    """Write scenes in the library's layout, as its conversion does: compressed by a pool of threads.

    Args:
        path: The file to write.
        scenes: The scenes, at least one.

    Returns:
        The number of scenes.
    """

    def encode(features: Features) -> CompressedScene:
        labels = label_map(features["mask"][..., 0])
        columns = {f"factors/{name}": value for name, value in features.items() if name not in ("image", "mask")}
        columns["counts/frame"] = count_pixels(labels, ENTITIES)
        columns["counts/crop"] = count_pixels(labels, ENTITIES, CROP)
        return compress_scene(features["image"], labels, columns, CROP)

    attributes = {"dataset": "clevr_with_masks"}
    with ThreadPoolExecutor(default_workers()) as pool:
        write_scenes(path, pool.map(encode, scenes), len(scenes), (HEIGHT, WIDTH, 3), attributes, CROP)
    return len(scenes)


def write_reference_layout(path: str | os.PathLike[str], scenes: Sequence[Features]) -> int:
    """Write scenes in the layout of the reference conversion, which resizes every dataset for each scene.

    Datasets are created with the size of one scene, with chunks guessed by h5py and gzip at its default level.

    Args:
        path: The file to write.
        scenes: The scenes.

    Returns:
        The number of scenes.

    Reference:
        github.com/HHousen/object-discovery-pytorch, `preprocess_clevr_with_masks.py` (the layout).
    """
    with h5py.File(path, "w") as file:
        for index, scene in enumerate(scenes):
            for name, value in scene.items():
                if index == 0:
                    shape, maxshape = (1, *value.shape), (None, *value.shape)
                    file.create_dataset(name, shape, value.dtype, maxshape=maxshape, chunks=True, compression="gzip")
                file[name].resize(index + 1, axis=0)
                file[name][index] = value
    return len(scenes)


def write_png_folder(root: Path, scenes: Sequence[Features]) -> None:
    """Write images in the layout of CLEVR v1.0: RGBA, 320 x 480 pixels.

    Args:
        root: The folder `CLEVR_v1.0` to create.
        scenes: The scenes; their images are upsampled.
    """
    folder = root / "images" / "train"
    folder.mkdir(parents=True)
    for index, scene in enumerate(scenes):
        image = Image.fromarray(scene["image"]).resize(_PNG_SIZE, Image.Resampling.BICUBIC)
        image.convert("RGBA").save(folder / f"CLEVR_train_{index:06d}.png")
