"""Writer of a folder of images with label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image of 16 x 24 pixels and its label map with number % 3 objects of 4 x 3 pixels."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), np.uint8)
    labels = np.zeros((16, 24), np.uint8)
    for label in range(1, 1 + number % 3):
        labels[6:10, 2 + 4 * label : 5 + 4 * label] = label
    return pixels, labels


def write_images(folder: Path, count: int, masks: Path | None = None, first: int = 0) -> Path:
    """Write images `b/00.png`, `01.jpg`, ... alternately, and label maps to the folder `masks`, if given."""
    for number in range(first, first + count):
        pixels, labels = scene(number)
        name = f"{number:02d}" if number % 2 else f"b/{number:02d}"
        path = folder / f"{name}.{'jpg' if number % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        if masks is not None:
            (masks / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(masks / f"{name}.png")
    return folder


def write_folder(root: Path) -> Path:
    """Write 14 images and label maps in `images` and `masks`."""
    write_images(root / "images", 14, root / "masks")
    return root
