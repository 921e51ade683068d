"""Writer of RAVENS in its published layout, `ravens_*_{train,test}.h5`."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

COUNTS = {"train": [3, 8, 5, 4, 6, 3], "test": [8, 3, 4, 6, 7]}


def scene(number: int, objects: int, first: int = 4) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images and segmentations `segm` of three views of a scene.

    Object k is a square of 40 pixels in a row at the height 300; in the last view the last object is at the left edge
    and thus outside both crops.
    """
    images, segm = np.empty((3, 480, 640, 3), np.uint8), np.zeros((3, 480, 640), np.uint8)
    segm[:, 200:], segm[:, 100:200, 300:400], segm[:, 200:230, 320:360] = 1, 2, 3
    for view in range(3):
        for k in range(objects):
            left = 0 if (view, k) == (2, objects - 1) else 80 + 60 * k
            segm[view, 300:340, left : left + 40] = first + k
        images[view] = segm[view][..., None] * 17 + np.array([number, view, 0], np.uint8)
    return images, segm


def write_ravens_file(path: Path, counts: list[int], first: int = 4) -> None:
    """Write scenes with these numbers of objects, with chunks chosen by h5py, as in the published files."""
    with h5py.File(path, "w") as file:
        for number, objects in enumerate(counts):
            images, segm = scene(number, objects, first)
            values = {"color": images, "segm": segm, "num_objects_on_table": np.array([objects])}
            for name, value in values.items():
                if number == 0:
                    shape = (None, *value.shape[1:])
                    file.create_dataset(name, data=value, maxshape=shape, compression="gzip", chunks=True)
                else:
                    file[name].resize(len(file[name]) + len(value), axis=0)
                    file[name][-len(value) :] = value


def write_ravens(root: Path) -> Path:
    """Write a training and a test file."""
    for split, counts in COUNTS.items():
        write_ravens_file(root / f"ravens_robot_data_{split}.h5", counts)
    return root
