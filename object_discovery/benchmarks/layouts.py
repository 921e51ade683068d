"""The same scenes in three layouts: ours, that of the published conversion, and a tree of PNG files."""

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
"""The features of a scene, in the shapes of the published conversion."""
CROP: Crop = (29, 64, 192, 192)
"""The published crop of CLEVR with masks."""
_PNG_SIZE = (480, 320)  # width and height of the images of CLEVR v1.0


def read_features(file: SceneFile, indices: Iterable[int]) -> list[Features]:
    """Read scenes of CLEVR with masks as a published conversion holds them.

    Args:
        file: The scenes.
        indices: Numbers of the scenes to read.

    Returns:
        For each scene `image` `(240, 320, 3)`, `mask` `(11, 240, 320, 1)` of 0 or 255, and all its factors.
    """
    return [
        {"image": file.image(index), "mask": entity_masks(file.mask(index)), **file.factors(index)} for index in indices
    ]


def write_ours(path: str | os.PathLike[str], scenes: Sequence[Features]) -> int:
    """Write scenes in the library's layout, as a conversion does: threads compress them, and one writes.

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


def write_published(path: str | os.PathLike[str], scenes: Sequence[Features]) -> int:
    """Write scenes as the published conversion does: every array grows by a row for every scene.

    The arrays are made of the size of one scene, whose chunks h5py guesses, and compressed at gzip's default level.

    Args:
        path: The file to write.
        scenes: The scenes.

    Returns:
        The number of scenes.

    Reference:
        github.com/HHousen/object-discovery-pytorch, `preprocess_clevr_with_masks.py` (the layout).
    """
    with h5py.File(path, "w") as file:
        for number, scene in enumerate(scenes):
            for name, value in scene.items():
                if number == 0:
                    longest = (None, *value.shape)
                    file.create_dataset(
                        name, (1, *value.shape), value.dtype, maxshape=longest, chunks=True, compression="gzip"
                    )
                file[name].resize(number + 1, axis=0)
                file[name][number] = value
    return len(scenes)


def write_png_tree(root: Path, scenes: Sequence[Features]) -> None:
    """Write the images in the layout and the size of CLEVR v1.0, as its renderer saves them: RGBA, 320 x 480 pixels.

    Args:
        root: The folder to be `CLEVR_v1.0`.
        scenes: The scenes; their images are enlarged.
    """
    folder = root / "images" / "train"
    folder.mkdir(parents=True)
    for number, scene in enumerate(scenes):
        image = Image.fromarray(scene["image"]).resize(_PNG_SIZE, Image.Resampling.BICUBIC)
        image.convert("RGBA").save(folder / f"CLEVR_train_{number:06d}.png")
