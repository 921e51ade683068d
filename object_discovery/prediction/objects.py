"""Segment the objects of images of any size."""

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
class SlotSegment:
    """The segment of an image that a slot covers."""

    slot: int
    """Index of the slot, from 0."""
    label: int
    """Value in the label map; 0 for the background."""
    background: bool
    """Whether it is the background, by the rule of `background_slot`."""
    box: list[int]
    """Bounding box `[x0, y0, x1, y1]` in pixels; x1 and y1 are exclusive."""
    area: int
    """Number of pixels."""
    mask: str = ""
    """File of its mask, in the folder of the image."""


@dataclass
class Prediction:
    """The segmentation of one image, at the image's own size."""

    image: Image.Image
    """The image, RGB."""
    labels: npt.NDArray[np.uint8]
    """Label map `(H, W)`: 0 background, 1 to n in the order of the slots, 255 outside the crop."""
    slots: list[SlotSegment]
    """The slots that cover at least one pixel, in their order."""
    crop: tuple[int, int, int, int]
    """The part of the image that the model was given, `(x0, y0, x1, y1)`."""
    discovery: Discovery
    """The output of the model, at its own resolution R, on the CPU; one image."""
    inputs: Tensor
    """The input of the model, `(1, 3, R, R)`, in [0, 1], on the CPU."""


def predict(
    model: ObjectDiscoveryModel[Any], images: Sequence[Image.Image], *, fit: str | None = None
) -> list[Prediction]:
    """Segment the objects of a batch of images.

    The soft masks are resized bilinearly to the image's own size; each pixel is assigned to the slot with the largest.

    Args:
        model: The model, on any device, in evaluation mode.
        images: RGB images of any sizes.
        fit: How non-square images are made square: `squash` the whole image, or `crop` its central square. None: as in
            training, or `crop` where the checkpoint does not tell.

    Returns:
        A prediction for each image.

    Raises:
        ValueError: If `fit` is unknown.
        UserError: If the model has more than 254 slots, which label maps cannot hold.
    """
    if fit is None:
        fit = model.run_info.get("fit", "crop")
    if fit not in ("crop", "squash"):
        raise ValueError(f"Expected argument `fit` to be 'crop' or 'squash', but got {fit!r}")
    size = model.params.resolution
    crops = [_central_square(image) if fit == "crop" else (0, 0, *image.size) for image in images]
    resized = [
        np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, crop))
        for image, crop in zip(images, crops, strict=True)
    ]
    batch = torch.from_numpy(np.stack(resized)).to(model.device).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        output: Discovery = model(batch, **model.forward_options)
    if output.masks.shape[1] >= IGNORED:
        raise UserError(f"Expected at most {IGNORED - 1} slots, but the model has {output.masks.shape[1]}")
    output = output.apply(lambda value: value.float().cpu())
    inputs = batch.cpu()
    return [
        _at_image_size(image, crop, _row(output, index), inputs[index : index + 1])
        for index, (image, crop) in enumerate(zip(images, crops, strict=True))
    ]


def resize_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images bilinearly, with antialiasing where they become smaller.

    Args:
        images: `(B, C, h, w)`.
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        `(B, C, height, width)`.
    """
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _row(discovery: Discovery, index: int) -> Discovery:
    """Return the output for one image of a batch."""
    return discovery.apply(lambda value: value[index : index + 1])


def _at_image_size(
    image: Image.Image, crop: tuple[int, int, int, int], discovery: Discovery, inputs: Tensor
) -> Prediction:
    """Bring the output for one image to the image's own size."""
    num_slots = discovery.masks.shape[1]
    background = int(background_slot(discovery.labels, num_slots))
    x0, y0, x1, y1 = crop
    slot_map = _largest_mask(discovery.masks[0], y1 - y0, x1 - x0)
    label_of_slot = np.zeros(num_slots, np.uint8)
    objects = [slot for slot in np.unique(slot_map).tolist() if slot != background]
    label_of_slot[objects] = np.arange(1, len(objects) + 1)
    labels = np.full((image.height, image.width), IGNORED, np.uint8)
    labels[y0:y1, x0:x1] = label_of_slot[slot_map]
    segments = [
        _segment(slot, int(label_of_slot[slot]), slot == background, labels) for slot in sorted([background, *objects])
    ]
    return Prediction(image, labels, [segment for segment in segments if segment.area], crop, discovery, inputs)


def _largest_mask(masks: Tensor, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the argmax of resized masks `(K, h, w)` over K, with one resized mask in memory at a time."""
    largest = resize_bilinear(masks[None, :1], height, width)[0, 0]
    slot_map = torch.zeros(height, width, dtype=torch.uint8)
    for slot in range(1, len(masks)):
        mask = resize_bilinear(masks[None, slot : slot + 1], height, width)[0, 0]
        slot_map.masked_fill_(mask > largest, slot)
        largest = torch.maximum(largest, mask)
    return slot_map.numpy()


def _segment(slot: int, label: int, background: bool, labels: npt.NDArray[np.uint8]) -> SlotSegment:
    mask = labels == label
    rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows else [0, 0, 0, 0]
    return SlotSegment(slot, label, background, box, int(mask.sum()))


def _central_square(image: Image.Image) -> tuple[int, int, int, int]:
    side = min(image.size)
    x0, y0 = ((length - side) // 2 for length in image.size)
    return x0, y0, x0 + side, y0 + side
