"""Writer of 3D Shapes in its published layout, `3dshapes.h5`."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

SIZE = 92


def images_and_factors(size: int = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Generate images of a floor, a wall and a square, and six factors; the first value of image i is i."""
    rng = np.random.default_rng(0)
    images = np.empty((size, 64, 64, 3), np.uint8)
    images[:, :40], images[:, 40:], images[:, 24:48, 20:44] = rng.integers(0, 256, (3, size, 1, 1, 3))
    images[:, 0, 0, 0] = np.arange(size) % 256
    return images, rng.random((size, 6))


def write_shapes3d(root: Path, size: int = SIZE) -> Path:
    """Write the file; as published, a chunk has 4 x 4 values of one channel of all images."""
    images, factors = images_and_factors(size)
    with h5py.File(root / "3dshapes.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=(size, 4, 4, 1), compression="gzip")
        file.create_dataset("labels", data=factors, chunks=(size, 1), compression="gzip")
    return root
