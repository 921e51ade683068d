"""Writer of COCO 2017 in its published layout, with a few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}]


def polygon(top: int, left: int, height: int, width: int) -> list[float]:
    """Return the corners of a rectangle of pixels, as x, y, x, y, ..."""
    right, bottom = left + width, top + height
    return [float(value) for value in (left, top, right, top, right, bottom, left, bottom)]


def run_lengths(top: int, left: int, height: int, width: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the run-length encoding of a rectangle, as COCO stores crowd regions: column-major, 0 first."""
    mask = np.zeros(size, np.uint8)
    mask[top : top + height, left : left + width] = 1
    pixels = [0, *mask.T.ravel().tolist()]
    borders = [index for index in range(1, len(pixels)) if pixels[index] != pixels[index - 1]]
    starts = [1, *borders, len(pixels)]
    return {"size": list(size), "counts": np.diff(starts).tolist()}


def annotate(folder: Path, split: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    """Write an annotation file; as in the published files, images are not sorted by id."""
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "licenses": [], "images": images[::-1], "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return path


def _write_split(root: Path, split: str, first: int, count: int) -> None:
    """Write images of two sizes; image k has k % 3 objects, and a crowd region if k is even."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (root / split).mkdir(parents=True)
    generator = np.random.default_rng(first)
    for number in range(first, first + count):
        size = (24, 32) if number % 2 else (30, 20)
        name = f"{number:012d}.jpg"
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / split / name, quality=95)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for index in range(number % 3):
            box = (8, 5 + 6 * index, 6, 4)
            annotation: dict[str, Any] = {
                "segmentation": [polygon(*box)],
                "category_id": CATEGORIES[index]["id"],
                "iscrowd": 0,
            }
            annotations.append({"id": len(annotations), "image_id": number, **annotation})
        if number % 2 == 0:
            annotation = {"segmentation": run_lengths(20, 2, 5, 9, size), "category_id": 1, "iscrowd": 1}
            annotations.append({"id": len(annotations), "image_id": number, **annotation})
    annotate(root, split, images, annotations)


def write_coco(root: Path) -> Path:
    """Write 14 images for training and validation (`train2017`) and 4 for testing (`val2017`).

    Image k has k % 3 objects of the classes 1 and 2, of 6 x 4 pixels, 2 apart, from row 8 and column 5 on.
    """
    _write_split(root, "train2017", 1, 14)
    _write_split(root, "val2017", 101, 4)
    return root
