"""Writer of Objects Room in the format of the published HDF5 conversions."""

from functools import cache
from pathlib import Path

import h5py
import numpy as np

from tests.data.tfrecord_writer import Features, random_scene

ENTITIES = {"train": 7, "test_six_objects": 10, "test_empty_room": 4, "test_identical_color": 10}
SIZES = {"train": 20, "test_six_objects": 4, "test_empty_room": 3, "test_identical_color": 5}


@cache
def scenes(name: str) -> list[Features]:
    """Generate the scenes of one file; in the training file some scenes have fewer objects."""
    start = 1000 * list(SIZES).index(name)
    generated = [random_scene("objects_room", start + seed, ENTITIES[name]) for seed in range(SIZES[name])]
    for number, scene in enumerate(generated if name == "train" else []):
        mask = scene["mask"]
        for entity in range(4 + 3 - number % 2 * (number % 3), 7):
            mask[3] |= mask[entity]
            mask[entity] = 0
    return generated


def write_objects_room_file(root: Path, name: str) -> Path:
    """Write one file: `image` and a mask of 0 or 255 for each entity."""
    path = root / f"objects_room_{name}.h5"
    with h5py.File(path, "w") as file:
        for key in ("image", "mask"):
            data = np.stack([scene[key] for scene in scenes(name)])
            file.create_dataset(key, data=data, compression="gzip", chunks=True)
    return path


def write_objects_room(root: Path) -> Path:
    """Write the training file and the three test files."""
    for name in SIZES:
        write_objects_room_file(root, name)
    return root
