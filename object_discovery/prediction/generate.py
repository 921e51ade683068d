"""Imagine scenes: `predict.py --generate N --checkpoint FILE`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.models.gnm import GNM, SceneDecomposition
from object_discovery.models.loading import load_for_inference
from object_discovery.visualization.grid import discovery_grid, save_png

_ROWS = 8
_BATCH = 32
_GUTTER = 4
_READABLE = 128


def generate(
    checkpoint: str | Path, count: int, out: str | Path, *, num_slots: int | None = None, seed: int = 0
) -> Path:
    """Imagine scenes, and write an image of each and pictures of them together.

    Args:
        checkpoint: A trained model that can imagine scenes.
        count: How many.
        out: Folder for `generated/0000.png` and so on, `generated.png` with all of them, and `generated_slots.png`
            with the masks and slots of the first eight; images that an earlier run left there are removed.
        num_slots: Number of slots in that. None: as trained.
        seed: The same seed imagines the same scenes.

    Returns:
        The picture of all of them.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If its model imagines nothing, or `count` is below 1.
    """
    if count < 1:
        raise UserError(f"Expected argument `generate` to be at least 1, but got {count}")
    model = load_for_inference(checkpoint, num_slots)
    if not isinstance(model, GNM):
        raise UserError(
            f"Expected a model that imagines scenes, such as gnm, but {checkpoint} is of model type {model.model_type}"
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    sizes = [min(_BATCH, count - start) for start in range(0, count, _BATCH)]
    first = model.sample(sizes[0], num_slots=num_slots)
    images = torch.cat([first.image.cpu(), *(model.sample(size).image.cpu() for size in sizes[1:])])
    return _write(first, (images.clamp(0, 1) * 255).round().to(torch.uint8), Path(out))


def mosaic(images: Tensor) -> Tensor:
    """Lay images in rows on white, as many in a row as there are rows, or one more.

    Args:
        images: `(B, 3, H, W)`, uint8.

    Returns:
        The picture `(3, H', W')`, uint8.

    Example:
        >>> mosaic(torch.zeros(5, 3, 128, 128, dtype=torch.uint8)).shape  # 2 rows of 3
        torch.Size([3, 268, 400])
    """
    scale = max(1, round(_READABLE / images.shape[-1]))
    columns = next(number for number in range(1, len(images) + 1) if number**2 >= len(images))
    tiles = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    tiles = F.pad(tiles, (_GUTTER, 0, _GUTTER, 0), value=255)
    missing = -len(tiles) % columns
    tiles = torch.cat([tiles, tiles.new_full((missing, *tiles.shape[1:]), 255)])
    rows = [torch.cat(list(tiles[start : start + columns]), -1) for start in range(0, len(tiles), columns)]
    return F.pad(torch.cat(rows, -2), (0, _GUTTER, 0, _GUTTER), value=255)


def _write(first: SceneDecomposition, images: Tensor, out: Path) -> Path:
    folder = out / "generated"
    paths = [folder / f"{number:04d}.png" for number in range(len(images))]
    earlier = folder.glob("*.png") if (out / "generated.png").exists() else ()
    for path in set(earlier) - set(paths):
        if path.stem.isdigit():
            path.unlink()
    for image, path in zip(images, paths, strict=True):
        save_png(image, path)
    found = Discovery._make(None if value is None else value[:_ROWS] for value in first.discovery)
    background = torch.full((len(found.masks),), found.masks.shape[1] - 1)
    picture = discovery_grid(first.image[:_ROWS], found._replace(image=None), background=background)
    save_png(picture, out / "generated_slots.png")
    together = out / "generated.png"
    save_png(mosaic(images), together)
    return together
