"""Find the objects in images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from object_discovery.discovery import IGNORED, Discovery
from object_discovery.errors import UserError
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.visualization.background import background_slot


@dataclass
class FoundSlot:
    """A slot that covers some of an image."""

    slot: int
    """Its number in the model, from 0."""
    label: int
    """Its value in the label map; 0 for the background."""
    background: bool
    """It is the background, by the rule of `background_slot`."""
    box: list[int]
    """The smallest box around it, `[x0, y0, x1, y1]` in pixels; x1 and y1 are just outside."""
    area: int
    """Its pixels."""
    mask: str = ""
    """File of its mask, in the folder of the image."""


@dataclass
class Prediction:
    """What was found in one image, at the image's own size."""

    image: Image.Image
    """The image, RGB."""
    labels: npt.NDArray[np.uint8]
    """Label map `(H, W)`: 0 background, 1 to n in the order of the slots, 255 outside the crop."""
    slots: list[FoundSlot]
    """The slots that cover some of it, in their order."""
    crop: tuple[int, int, int, int]
    """The part that the model saw, `(x0, y0, x1, y1)`."""
    found: Discovery
    """What the model returned, at its own resolution, on the CPU; one image."""
    seen: Tensor
    """What the model saw, `(1, 3, R, R)`, in [0, 1], on the CPU."""


def predict(model: ObjectDiscoveryModel[Any], images: Sequence[Image.Image], *, crop: bool = False) -> list[Prediction]:
    """Find the objects in a batch of images.

    The model sees the whole image squashed to its square resolution, or, with `crop`, the central square. Its soft
    masks are enlarged bilinearly to the image's own size before each pixel goes to the slot with the largest.

    Args:
        model: The model, on any device, in evaluation mode.
        images: RGB images of any sizes.
        crop: See the central square only.

    Returns:
        What was found in each image.

    Raises:
        UserError: If the model has more than 254 slots, which label maps cannot hold.
    """
    size = model.params.resolution
    crops = [_central_square(image) if crop else (0, 0, *image.size) for image in images]
    seen = [
        np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
        for image, box in zip(images, crops, strict=True)
    ]
    batch = torch.from_numpy(np.stack(seen)).to(model.device).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        found: Discovery = model(batch, **model.forward_options)
    if found.masks.shape[1] >= IGNORED:
        raise UserError(f"Expected at most {IGNORED - 1} slots, but the model has {found.masks.shape[1]}")
    found = Discovery._make(None if value is None else value.float().cpu() for value in found)
    return [
        _finish(image, box, Discovery._make(None if v is None else v[i : i + 1] for v in found), batch[i : i + 1].cpu())
        for i, (image, box) in enumerate(zip(images, crops, strict=True))
    ]


def resize_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    """Resize `(B, C, h, w)` bilinearly, smoothing where it becomes smaller."""
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _finish(image: Image.Image, crop: tuple[int, int, int, int], found: Discovery, seen: Tensor) -> Prediction:
    """Bring what was found in one image to the image's own size."""
    num_slots = found.masks.shape[1]
    background = int(background_slot(found.labels, num_slots))
    x0, y0, x1, y1 = crop
    winners = _winners(found.masks[0], y1 - y0, x1 - x0)
    values = np.zeros(num_slots, np.uint8)
    present = [k for k in np.unique(winners).tolist() if k != background]
    values[present] = np.arange(1, len(present) + 1)
    labels = np.full((image.height, image.width), IGNORED, np.uint8)
    labels[y0:y1, x0:x1] = values[winners]
    slots = [_describe(k, int(values[k]), k == background, labels) for k in sorted([background, *present])]
    return Prediction(image, labels, [slot for slot in slots if slot.area], crop, found, seen)


def _winners(masks: Tensor, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Find the slot with the largest mask `(K, h, w)` at each pixel of a larger image, holding one mask at a time."""
    best = resize_bilinear(masks[None, :1], height, width)[0, 0]
    slot = torch.zeros(height, width, dtype=torch.uint8)
    for k in range(1, len(masks)):
        mask = resize_bilinear(masks[None, k : k + 1], height, width)[0, 0]
        slot.masked_fill_(mask > best, k)
        best = torch.maximum(best, mask)
    return slot.numpy()


def _describe(slot: int, label: int, background: bool, labels: npt.NDArray[np.uint8]) -> FoundSlot:
    mask = labels == label
    rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows else [0, 0, 0, 0]
    return FoundSlot(slot, label, background, box, int(mask.sum()))


def _central_square(image: Image.Image) -> tuple[int, int, int, int]:
    side = min(image.size)
    x0, y0 = ((length - side) // 2 for length in image.size)
    return x0, y0, x0 + side, y0 + side
