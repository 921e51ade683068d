"""Write the segmentation of an image: pictures, a label map, a mask for each slot, and their boxes as JSON."""

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
from object_discovery.prediction.objects import Prediction, SlotSegment, resize_bilinear
from object_discovery.visualization.background import RULE, background_slot
from object_discovery.visualization.grid import discovery_grid, save_png
from object_discovery.visualization.overlay import draw_segments
from object_discovery.visualization.palette import palette

RESULT = "objects.json"
"""The file that describes the segmentation of an image; it is written last."""
_MAX_SIDE = 256


def write_prediction(prediction: Prediction, folder: str | Path, entries: dict[str, Any]) -> Path:
    """Write the pictures, the label map, the masks and the JSON of an image; each is an atomic write.

    Args:
        prediction: The segmentation.
        folder: Folder of `picture.png` (see `prediction_grid`), `overlay.png` (the segments over the image, at its
            size), `labels.png`, `mask_<label>.png` and `objects.json`; masks that an earlier run wrote are removed.
        entries: First entries of the JSON, such as the name of the image.

    Returns:
        Path of `picture.png`.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    labels = prediction.labels
    for segment in prediction.slots:
        segment.mask = f"mask_{segment.label}.png"
        _save(Image.fromarray(np.where(labels == segment.label, 255, 0).astype(np.uint8)), folder / segment.mask)
    written = {folder / segment.mask for segment in prediction.slots}
    existing = set(folder.glob("mask_*.png")) if (folder / RESULT).exists() else set()
    for path in existing - written:
        path.unlink()
    colours = _label_colours(prediction.slots)
    label_map = Image.fromarray(labels)
    label_map.putpalette(colours.tobytes())
    _save(label_map, folder / "labels.png")
    save_png(draw_segments(np.asarray(prediction.image), labels, colours), folder / "overlay.png")
    save_png(prediction_grid(prediction), folder / "picture.png")
    result = {
        **entries,
        "size": list(prediction.image.size),
        "crop": list(prediction.crop),
        "picture": "picture.png",
        "overlay": "overlay.png",
        "labels": "labels.png",
        "background_rule": RULE,
        "slots": [asdict(segment) for segment in prediction.slots],
    }
    with atomic_write(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    return folder / "picture.png"


def prediction_grid(prediction: Prediction) -> Tensor:
    """Build a picture of an image: the part given to the model, its reconstruction, the masks over it, and each slot.

    Args:
        prediction: The segmentation.

    Returns:
        The picture `(3, H', W')`, uint8; large images have 256 pixels on the longer side.
    """
    x0, y0, x1, y1 = prediction.crop
    factor = min(1.0, _MAX_SIDE / max(x1 - x0, y1 - y0))
    width, height = (max(1, round(length * factor)) for length in (x1 - x0, y1 - y0))
    resized = np.array(prediction.image.resize((width, height), Image.Resampling.BILINEAR, prediction.crop))
    discovery = prediction.discovery
    image, slot_images = discovery.image, discovery.slot_images
    return discovery_grid(
        torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255,
        discovery._replace(
            masks=resize_bilinear(discovery.masks, height, width),
            image=None if image is None else resize_bilinear(image, height, width),
            slot_images=None if slot_images is None else resize_bilinear(slot_images[0], height, width)[None],
        ),
        background=background_slot(discovery.labels, discovery.masks.shape[1]),
    )


def overview(predictions: Sequence[Prediction]) -> Tensor:
    """Build a picture with a row for each image, at the resolution of the model.

    Args:
        predictions: The segmentations.

    Returns:
        The picture `(3, H', W')`, uint8.
    """
    fields = zip(*(prediction.discovery for prediction in predictions), strict=True)
    discovery = Discovery._make(None if field[0] is None else torch.cat(field) for field in fields)
    return discovery_grid(torch.cat([prediction.inputs for prediction in predictions]), discovery)


def _label_colours(slots: Iterable[SlotSegment]) -> npt.NDArray[np.uint8]:
    """Return the colour of each label `(256, 3)`: that of its slot in the picture; white outside the crop."""
    colours = np.full((256, 3), 255, np.uint8)
    for segment in slots:
        colours[segment.label] = palette(256)[0 if segment.background else segment.slot + 1]
    return colours


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
