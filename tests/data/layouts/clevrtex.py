"""Writer of ClevrTex in its published layout, with images of an eighth of the size."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

HEIGHT, WIDTH = 30, 40
OTHERS = ("albedo", "depth", "normal", "shadow")


def make_labels(number: int) -> npt.NDArray[np.uint8]:
    """Return the label map of a scene of 3 + number % 4 objects; in even scenes one is outside the central crop."""
    labels: npt.NDArray[np.uint8] = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label in range(1, 4 + number % 4):
        top, left = (0, 0) if label == 1 and number % 2 == 0 else (4 + 3 * label, 8 + 3 * label)
        labels[top : top + 3, left : left + 6] = label
    return labels


def write_scene(folder: Path, variant: str, number: int) -> None:
    """Write the six PNG files and the JSON file of a scene."""
    rng = np.random.default_rng(number)
    stem = f"CLEVRTEX_{variant}_{number:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    labels = make_labels(number)
    palette = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    pixels = np.concatenate([palette[labels], rng.integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8)], axis=2)
    Image.fromarray(pixels, "RGBA").save(folder / f"{stem}.png")
    flat = Image.fromarray(labels, "P")
    flat.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
    flat.save(folder / f"{stem}_flat.png")
    for other in OTHERS:
        Image.fromarray(pixels[..., :3], "RGB").save(folder / f"{stem}_{other}_0001.png")
    num_objects = len(np.unique(labels)) - 1
    annotation = {
        "num_objects": num_objects,
        "split": variant,
        "image_index": number,
        "image_filename": f"{stem}.png",
        "ground_material": "PoliigonGroundForest003",
        "objects": [
            {"shape": "monkey", "size": "large", "material": "rock", "index": k} for k in range(1, 1 + num_objects)
        ],
        "mask_filename": f"{stem}_flat.png",
        **{f"{other}_filename": f"{stem}_{other}_0001.png" for other in OTHERS},
    }
    (folder / f"{stem}.json").write_text(json.dumps(annotation, indent=2))


def write_clevrtex(root: Path, variant: str = "full", numbers: Iterable[int] = range(20)) -> Path:
    """Write scenes of a variant, a thousand per folder.

    Returns:
        Parent folder of `clevrtex_<variant>`.
    """
    for number in numbers:
        write_scene(root / f"clevrtex_{variant}" / str(number // 1000), variant, number)
    return root
