"""Writer of CLEVR v1.0 in its published layout, with images of a tenth of the size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from object_discovery.data.object_encoding import ATTRIBUTES

SIZES = {"train": 12, "val": 5, "test": 4}
HEIGHT, WIDTH = 32, 48


def make_scene(split: str, number: int, num_objects: int) -> dict[str, Any]:
    """Return the annotation of a scene; centres are in pixels of 480 x 320 images."""
    rng = np.random.default_rng(number)
    relations: dict[str, list[list[int]]] = {
        name: [[] for _ in range(num_objects)] for name in ("right", "behind", "front", "left")
    }
    return {
        "image_index": number,
        "objects": [
            {
                **{name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()},
                "rotation": float(rng.uniform(0, 360)),
                "3d_coords": [*rng.uniform(-3, 3, 2).tolist(), 0.35],
                "pixel_coords": [int(rng.integers(0, 480)), int(rng.integers(0, 320)), 9.5],
            }
            for _ in range(num_objects)
        ],
        "relationships": relations,
        "image_filename": f"CLEVR_{split}_{number:06d}.png",
        "split": split,
        "directions": {name: [0.0, 1.0, 0.0] for name in ("right", "behind", "above", "below", "left", "front")},
    }


def write_scenes_file(path: Path, scenes: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = {"date": "2/14/2017", "version": "1.0", "split": "train", "license": "CC BY 4.0"}
    path.write_text(json.dumps({"info": info, "scenes": scenes}))


def write_clevr(root: Path) -> Path:
    """Write all three splits; scene i has 3 + i % 8 objects.

    Returns:
        The folder `CLEVR_v1.0`.
    """
    folder = root / "CLEVR_v1.0"
    for split, size in SIZES.items():
        images = folder / "images" / split
        images.mkdir(parents=True)
        scenes = [make_scene(split, number, 3 + number % 8) for number in range(size)]
        for scene in scenes:
            pixels = np.random.default_rng(scene["image_index"]).integers(90, 130, (HEIGHT, WIDTH, 4))
            for attributes in scene["objects"]:
                column, row = (int(value) // 10 for value in attributes["pixel_coords"][:2])
                pixels[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3, :3] = (200, 30, 60)
            Image.fromarray(pixels.astype(np.uint8), "RGBA").save(images / scene["image_filename"])
        if split != "test":
            write_scenes_file(folder / "scenes" / f"CLEVR_{split}_scenes.json", scenes)
    return folder
