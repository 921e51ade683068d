"""Write what was found in an image: pictures, a label map, a mask for each slot, and their boxes as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.files import atomic_write
from object_discovery.prediction.objects import FoundSlot, Prediction, resize_bilinear
from object_discovery.visualization.background import RULE, background_slot
from object_discovery.visualization.grid import discovery_grid, save_png
from object_discovery.visualization.overlay import draw_segments
from object_discovery.visualization.palette import palette

RESULT = "objects.json"
"""The file that describes what was found; it is written last."""
_SHOWN = 256


def write_prediction(prediction: Prediction, folder: str | Path, about: dict[str, Any]) -> Path:
    """Write the picture, the label map, the masks and the JSON of an image; each file is replaced as a whole.

    Args:
        prediction: What was found.
        folder: Where `picture.png`, `overlay.png` (the segments over the image, at its size), `labels.png`,
            `mask_<label>.png` and `objects.json` go; masks that an earlier run left there are removed.
        about: Entries that the JSON begins with, such as the name of the image.

    Returns:
        The picture's path.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    labels = prediction.labels
    for found in prediction.slots:
        found.mask = f"mask_{found.label}.png"
        _save(Image.fromarray(np.where(labels == found.label, 255, 0).astype(np.uint8)), folder / found.mask)
    kept = {folder / found.mask for found in prediction.slots}
    stale = set(folder.glob("mask_*.png")) if (folder / RESULT).exists() else set()
    for mask in stale - kept:
        mask.unlink()
    colours = _label_colours(prediction.slots)
    coloured = Image.fromarray(labels)
    coloured.putpalette(colours.tobytes())
    _save(coloured, folder / "labels.png")
    save_png(draw_segments(np.asarray(prediction.image), labels, colours), folder / "overlay.png")
    save_png(picture(prediction), folder / "picture.png")
    entries = {
        **about,
        "size": list(prediction.image.size),
        "crop": list(prediction.crop),
        "picture": "picture.png",
        "overlay": "overlay.png",
        "labels": "labels.png",
        "background_rule": RULE,
        "slots": [asdict(found) for found in prediction.slots],
    }
    with atomic_write(folder / RESULT) as beside:
        beside.write_text(json.dumps(entries, indent=2) + "\n")
    return folder / "picture.png"


def picture(prediction: Prediction) -> Tensor:
    """Draw the part that the model saw, its reconstruction, the masks over it, and each slot on white.

    Returns:
        A picture `(3, H', W')`, uint8; large images are shown at 256 pixels on the longer side.
    """
    x0, y0, x1, y1 = prediction.crop
    factor = min(1.0, _SHOWN / max(x1 - x0, y1 - y0))
    width, height = (max(1, round(length * factor)) for length in (x1 - x0, y1 - y0))
    shown = np.array(prediction.image.resize((width, height), Image.Resampling.BILINEAR, prediction.crop))
    found = prediction.found
    image, slot_images = found.image, found.slot_images
    return discovery_grid(
        torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 255,
        found._replace(
            masks=resize_bilinear(found.masks, height, width),
            image=None if image is None else resize_bilinear(image, height, width),
            slot_images=None if slot_images is None else resize_bilinear(slot_images[0], height, width)[None],
        ),
        background=background_slot(found.labels, found.masks.shape[1]),
    )


def overview(predictions: Sequence[Prediction]) -> Tensor:
    """Draw a row for each image, as the model saw it.

    Returns:
        A picture `(3, H', W')`, uint8.
    """
    fields = zip(*(prediction.found for prediction in predictions), strict=True)
    found = Discovery._make(None if field[0] is None else torch.cat(field) for field in fields)
    seen = torch.cat([prediction.seen for prediction in predictions])
    return discovery_grid(seen, found)


def _label_colours(slots: Iterable[FoundSlot]) -> npt.NDArray[np.uint8]:
    """Give labels the colours that their slots have in the picture; what is outside the crop is white."""
    colours = np.full((256, 3), 255, np.uint8)
    for found in slots:
        colours[found.label] = palette(256)[0 if found.background else found.slot + 1]
    return colours


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as beside:
        image.save(beside, format="PNG")
