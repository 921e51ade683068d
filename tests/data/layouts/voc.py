"""Writer of Pascal VOC 2012 in its published layout, with a few images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRAIN = [f"2007_{number:06d}" for number in range(8)]
EXTRA = [f"2008_{number:06d}" for number in range(4)]
VAL = [f"2009_{number:06d}" for number in range(3)]


def labels_of(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the instance and class maps of an image with one or two objects, each with a border of 255."""
    size = (20, 30) if index % 2 else (26, 20)
    instances, classes = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for label in range(1, 2 + index % 2):
        top, left = 8, 3 + 8 * label
        instances[top - 1 : top + 5, left - 1 : left + 5] = classes[top - 1 : top + 5, left - 1 : left + 5] = 255
        instances[top : top + 4, left : left + 4] = label
        classes[top : top + 4, left : left + 4] = 10 + label
    return instances, classes


def _save_palette(path: Path, labels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)


def write_voc(root: Path) -> Path:
    """Write 8 images with instance maps and 4 without for training and validation, and 3 for testing.

    The last two without instance maps have no class maps either.
    """
    folder = root / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index, name in enumerate([*TRAIN, *EXTRA, *VAL]):
        instances, classes = labels_of(index)
        pixels = generator.integers(0, 256, (*instances.shape, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        if name in EXTRA[:2]:
            (folder / "SegmentationClassAug").mkdir(exist_ok=True)
            Image.fromarray(classes).save(folder / "SegmentationClassAug" / f"{name}.png")
        if name not in EXTRA:
            _save_palette(folder / "SegmentationObject" / f"{name}.png", instances)
            _save_palette(folder / "SegmentationClass" / f"{name}.png", classes)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", TRAIN), ("trainaug", sorted([*TRAIN, *EXTRA])), ("val", VAL)):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root
