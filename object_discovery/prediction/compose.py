"""Scenes composed of slots of several images: `predict.py --compose`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.models import SLATE
from object_discovery.models.loading import load_for_inference
from object_discovery.prediction.objects import predict
from object_discovery.visualization.background import background_slot
from object_discovery.visualization.grid import picture_grid, save_png

MOST_IMAGES = 8
"""Images that scenes are composed of."""


def compose(
    checkpoint: str | Path,
    images: Sequence[Image.Image],
    out: str | Path,
    *,
    crop: bool = False,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    seed: int = 0,
) -> Path:
    """Compose scenes of the slots of images, and draw them.

    Args:
        checkpoint: A trained SLATE.
        images: RGB images of any sizes; the first eight are taken.
        out: Folder for `composed.png`, see `composition_picture`.
        crop: See the central square only.
        num_slots: Number of slots. None: as trained.
        num_iterations: Iterations of Slot Attention. None: as trained.
        seed: Seed of slots that start at random.

    Returns:
        The picture.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the model composes nothing, or there are fewer than two images or slots.
    """
    model = load_for_inference(checkpoint, num_slots, num_iterations)
    if not isinstance(model, SLATE):
        found = f"but {checkpoint} is of model type {model.model_type}"
        raise UserError(f"Expected a model that composes scenes, such as slate, {found}")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    _check_number(len(images))
    predictions = predict(model, images[:MOST_IMAGES], crop=crop)
    picture = composition_picture(model, torch.cat([prediction.seen for prediction in predictions]))
    path = Path(out) / "composed.png"
    save_png(picture, path)
    return path


def main_objects(found: Discovery) -> Tensor:
    """Choose the largest slot of each image that is not its background.

    Args:
        found: What was found in B images, in at least two slots.

    Returns:
        The slots, `(B,)`, int64.

    Example:
        >>> masks = torch.tensor([[[[9.0, 9, 9, 9]], [[0, 10, 10, 0]], [[0, 0, 0, 0]]]])
        >>> main_objects(Discovery(torch.zeros(1, 3, 8), masks)).tolist()
        [1]
    """
    labels, number = found.labels, found.slots.shape[1]
    areas = torch.stack([(labels == slot).flatten(1).sum(1) for slot in range(number)], 1)
    areas.scatter_(1, background_slot(labels, number)[:, None], -1)
    return areas.argmax(1)


def edited_slots(slots: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """Take the object out of each image, exchange it for that of the next image, and add that of the next image.

    Args:
        slots: `(B, K, D)`; the image after the last is the first.
        objects: The slot of each image's object, `(B,)`.

    Returns:
        `removed` `(B, K - 1, D)`, `exchanged` `(B, K, D)` and `added` `(B, K + 1, D)`.

    Example:
        >>> slots = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])
        >>> edited = edited_slots(slots, torch.tensor([1, 1]))
        >>> [edited[name][0].flatten().tolist() for name in ("removed", "exchanged", "added")]
        [[0.0], [0.0, 3.0], [0.0, 1.0, 3.0]]
    """
    images, number, size = slots.shape
    rows = torch.arange(images, device=slots.device)
    others = slots[rows, objects].roll(-1, 0)
    kept = torch.arange(number, device=slots.device) != objects[:, None]
    exchanged = slots.clone()
    exchanged[rows, objects] = others
    return {
        "removed": slots[kept].view(images, number - 1, size),
        "exchanged": exchanged,
        "added": torch.cat([slots, others[:, None]], 1),
    }


@torch.no_grad()
def composition_picture(model: SLATE, images: Tensor) -> Tensor:
    """Draw a row for each image: itself, what its slots paint, each slot, and scenes with an object changed.

    The object is the image's largest. It is taken out, exchanged for that of the image in the next row, and joined by
    it. The first row follows the last.

    Args:
        model: In evaluation mode, with at least two slots.
        images: At least two, `(B, 3, H, W)` in [0, 1].

    Returns:
        The picture `(3, H', W')`, uint8, on the CPU.

    Raises:
        UserError: If there are too few images or slots.
    """
    _check_number(len(images))
    images = images.to(model.device)
    found: Discovery = model(images, **model.forward_options)
    number = found.slots.shape[1]
    if number < 2:
        raise UserError(f"Expected at least 2 slots to compose scenes of, but got {number}")
    objects = main_objects(found)
    masks = found.masks[:, :, None]
    shown = images[:, None] * masks + 1 - masks
    columns = {"image": images, "through slots": model.compose(found.slots)}
    columns.update({f"slot {slot}": shown[:, slot] for slot in range(number)})
    columns["object"] = shown[torch.arange(len(images), device=images.device), objects]
    columns.update({name: model.compose(slots) for name, slots in edited_slots(found.slots, objects).items()})
    return picture_grid(columns)


def _check_number(images: int) -> None:
    if images < 2:
        raise UserError(f"Expected at least 2 images to compose scenes of, but got {images}")
