"""Scenes composed of the slots of several images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from object_discovery.base_params import MaskSource
from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.files import check_writable
from object_discovery.models.base import has_capability
from object_discovery.models.loading import default_device, load_for_inference
from object_discovery.prediction.files import read_images, warn
from object_discovery.prediction.images import find_images
from object_discovery.prediction.objects import predict
from object_discovery.visualization.background import background_slot
from object_discovery.visualization.grid import picture_grid, save_png

MAX_IMAGES = 8
"""Largest number of images whose slots are recombined."""


def compose_files(
    paths: Sequence[str | Path],
    checkpoint: str | Path,
    out: str | Path,
    *,
    fit: str | None = None,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    mask_source: MaskSource | None = None,
    seed: int = 0,
) -> tuple[Path, list[Path]]:
    """Compose scenes of the slots of image files, and write them as one picture.

    Args:
        paths: Images, and folders of images; the first eight images are used. Those that cannot be read are skipped
            with a warning.
        checkpoint: A trained model that decodes any set of slots, such as SLATE.
        out: Folder of `composed.png`, see `composition_grid`.
        fit: How non-square images are made square, see `predict`.
        num_slots: Number of slots. None: as trained.
        num_iterations: Iterations of Slot Attention. None: as trained.
        mask_source: Masks of the objects, see `choose_masks`. None: as trained.
        seed: Seed of the initial slots of models that sample them.

    Returns:
        The picture, and the images that could not be read.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the model cannot compose scenes, or there are fewer than two images or slots.
    """
    files, unreadable = find_images(paths, warn)
    check_writable(out, "out")
    images = read_images(files[:MAX_IMAGES])
    unreadable += [file for file in files[:MAX_IMAGES] if file not in images]
    model = load_for_inference(checkpoint, num_slots, num_iterations, mask_source)
    if not has_capability(model, "compose"):
        actual = f"but {checkpoint} is of model type {model.model_type}"
        raise UserError(f"Expected a model that composes scenes, such as slate, {actual}")
    model.to(default_device())
    torch.manual_seed(seed)
    _check_number(len(images))
    predictions = predict(model, list(images.values()), fit=fit)
    grid = composition_grid(model, torch.cat([prediction.inputs for prediction in predictions]))
    path = Path(out) / "composed.png"
    save_png(grid, path)
    return path, unreadable


def main_objects(discovery: Discovery) -> Tensor:
    """Return the slot with the largest segment of each image, the background left out.

    Args:
        discovery: Output of a model for B images, with at least two slots.

    Returns:
        Indices of slots, `(B,)`, int64.

    Example:
        >>> masks = torch.tensor([[[[9.0, 9, 9, 9]], [[0, 10, 10, 0]], [[0, 0, 0, 0]]]])
        >>> main_objects(Discovery(torch.zeros(1, 3, 8), masks)).tolist()
        [1]
    """
    labels, num_slots = discovery.labels, discovery.slots.shape[1]
    areas = torch.stack([(labels == slot).flatten(1).sum(1) for slot in range(num_slots)], 1)
    areas.scatter_(1, background_slot(labels, num_slots)[:, None], -1)
    return areas.argmax(1)


def edited_slots(slots: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """Remove the main object of each image, exchange it for that of the next image, and add that of the next image.

    Shapes: B images, K slots, D slot size.

    Args:
        slots: `(B, K, D)`; the image after the last is the first.
        objects: Index of the slot of each image's main object, `(B,)`.

    Returns:
        `removed` `(B, K - 1, D)`, `exchanged` `(B, K, D)` and `added` `(B, K + 1, D)`.

    Example:
        >>> slots = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])
        >>> edited = edited_slots(slots, torch.tensor([1, 1]))
        >>> [edited[name][0].flatten().tolist() for name in ("removed", "exchanged", "added")]
        [[0.0], [0.0, 3.0], [0.0, 1.0, 3.0]]
    """
    num_images, num_slots, size = slots.shape
    rows = torch.arange(num_images, device=slots.device)
    next_objects = slots[rows, objects].roll(-1, 0)
    is_other_slot = torch.arange(num_slots, device=slots.device) != objects[:, None]
    exchanged = slots.clone()
    exchanged[rows, objects] = next_objects
    return {
        "removed": slots[is_other_slot].view(num_images, num_slots - 1, size),
        "exchanged": exchanged,
        "added": torch.cat([slots, next_objects[:, None]], 1),
    }


@torch.no_grad()
def composition_grid(model: Any, images: Tensor) -> Tensor:
    """Build a picture with a row for each image: the image, that decoded from its slots, the slots, composed scenes.

    The main object of the image is removed, exchanged for that of the next row, and joined by it. The first row follows
    the last.

    Args:
        model: In evaluation mode, with `compose` and at least two slots.
        images: At least two, `(B, 3, H, W)` in [0, 1].

    Returns:
        The picture `(3, H', W')`, uint8, on the CPU.

    Raises:
        UserError: If there are too few images or slots.
    """
    _check_number(len(images))
    images = images.to(model.device)
    discovery: Discovery = model(images, **model.forward_options)
    num_slots = discovery.slots.shape[1]
    if num_slots < 2:
        raise UserError(f"Expected at least 2 slots to compose scenes of, but got {num_slots}")
    objects = main_objects(discovery)
    masks = discovery.masks[:, :, None]
    segments = images[:, None] * masks + 1 - masks  # on white
    columns = {"image": images, "from slots": model.compose(discovery.slots)}
    columns.update({f"slot {slot}": segments[:, slot] for slot in range(num_slots)})
    columns["object"] = segments[torch.arange(len(images), device=images.device), objects]
    columns.update({name: model.compose(slots) for name, slots in edited_slots(discovery.slots, objects).items()})
    return picture_grid(columns)


def _check_number(images: int) -> None:
    if images < 2:
        raise UserError(f"Expected at least 2 images to compose scenes of, but got {images}")
