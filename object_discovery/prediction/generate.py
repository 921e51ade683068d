"""Scenes sampled from the prior of a generative model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.files import check_writable
from object_discovery.models.base import has_capability
from object_discovery.models.loading import default_device, load_for_inference
from object_discovery.visualization.grid import discovery_grid, save_png

_ROWS = 8
_BATCH_SIZE = 32
_GUTTER = 4
_READABLE_SIZE = 128


def generate(checkpoint: str | Path, num: int, out: str | Path, *, num_slots: int | None = None, seed: int = 0) -> Path:
    """Sample scenes, and write an image of each and pictures of all.

    Args:
        checkpoint: A trained model with a prior of scenes, such as GNM.
        num: Number of scenes.
        out: Folder of `generated/0000.png` and so on, `generated.png` with all of them, and `generated_slots.png`
            with the masks and slots of the first eight; images that an earlier run wrote are removed.
        num_slots: Number of slots in `generated_slots.png`. None: as trained.
        seed: Seed of the scenes.

    Returns:
        The picture of all scenes.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If its model cannot sample scenes, `num` is below 1, or the folder cannot be written to.
    """
    if num < 1:
        raise UserError(f"Expected argument `num` to be at least 1, but got {num}")
    check_writable(out, "out")
    model: Any = load_for_inference(checkpoint, num_slots)
    if not has_capability(model, "sample"):
        raise UserError(
            f"Expected a model that samples scenes, such as gnm, but {checkpoint} is of model type {model.model_type}"
        )
    model.to(default_device())
    torch.manual_seed(seed)
    sizes = [min(_BATCH_SIZE, num - start) for start in range(0, num, _BATCH_SIZE)]
    first = model.sample(sizes[0], num_slots=num_slots).discovery
    images = torch.cat([first.image.cpu(), *(model.sample(size).image.cpu() for size in sizes[1:])])
    return _write(first, (images.clamp(0, 1) * 255).round().to(torch.uint8), Path(out))


def mosaic(images: Tensor) -> Tensor:
    """Arrange images in a nearly square grid on white: as many columns as rows, or one more.

    Args:
        images: `(B, 3, H, W)`, uint8.

    Returns:
        The picture `(3, H', W')`, uint8.

    Example:
        >>> mosaic(torch.zeros(5, 3, 128, 128, dtype=torch.uint8)).shape  # 2 rows of 3
        torch.Size([3, 268, 400])
    """
    scale = max(1, round(_READABLE_SIZE / images.shape[-1]))
    columns = next(number for number in range(1, len(images) + 1) if number**2 >= len(images))
    tiles = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    tiles = F.pad(tiles, (_GUTTER, 0, _GUTTER, 0), value=255)
    missing = -len(tiles) % columns
    tiles = torch.cat([tiles, tiles.new_full((missing, *tiles.shape[1:]), 255)])
    rows = [torch.cat(list(tiles[start : start + columns]), -1) for start in range(0, len(tiles), columns)]
    return F.pad(torch.cat(rows, -2), (0, _GUTTER, 0, _GUTTER), value=255)


def _write(first: Discovery, images: Tensor, out: Path) -> Path:
    """Write the images, the picture of all, and the grid of the first batch."""
    folder = out / "generated"
    paths = [folder / f"{index:04d}.png" for index in range(len(images))]
    earlier = folder.glob("*.png") if (out / "generated.png").exists() else ()
    for path in set(earlier) - set(paths):
        if path.stem.isdigit():
            path.unlink()
    for image, path in zip(images, paths, strict=True):
        save_png(image, path)
    rows = first.apply(lambda value: value[:_ROWS])
    assert rows.image is not None
    background = torch.full((len(rows.masks),), rows.masks.shape[1] - 1)
    save_png(discovery_grid(rows.image, rows._replace(image=None), background=background), out / "generated_slots.png")
    path = out / "generated.png"
    save_png(mosaic(images), path)
    return path
