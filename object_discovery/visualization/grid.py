"""Pictures of what was found: colours for label maps, and a grid with a row for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from object_discovery.discovery import Discovery
from object_discovery.files import atomic_write
from object_discovery.visualization.background import background_slot
from object_discovery.visualization.palette import colour_labels, palette

__all__ = ["colour_labels", "discovery_grid", "draw_boxes", "palette", "picture_grid", "save_png", "slot_labels"]

_GUTTER = 4
_READABLE = 128


def slot_labels(labels: Tensor, background: Tensor) -> Tensor:
    """Number the pixels of slots for painting: the background 0, slot k otherwise k + 1.

    A slot so keeps its colour from image to image.

    Args:
        labels: The slot of each pixel, `(B, H, W)`.
        background: The slot that is the background of each image, `(B,)`.

    Returns:
        Labels `(B, H, W)`, int64.

    Example:
        >>> slot_labels(torch.tensor([[[0, 1, 2]]]), torch.tensor([1])).tolist()
        [[[1, 0, 3]]]
    """
    return (labels + 1) * (labels != background[:, None, None])


def discovery_grid(
    images: Tensor,
    discovery: Discovery,
    *,
    masks: Tensor | None = None,
    background: Tensor | None = None,
    scale: int | None = None,
    opacity: float = 1.0,
    headings: bool = True,
    extra: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Draw a row for each image: the image, its reconstruction, the masks, and each slot on white.

    Args:
        images: B images `(B, 3, H, W)`, floats in [0, 1], on any device.
        discovery: What was found in them, in K slots.
        masks: True label maps `(B, H, W)`; 0 is the background, 255 is ignored. None: no such column.
        background: The slot to paint dark in each image, `(B,)`. None: see `background_slot`.
        scale: Factor by which the pixels are enlarged. None: so that small images become readable.
        opacity: Of the colours of the predicted masks over the image, from 0 to 1.
        headings: Write the name of each column above it.
        extra: Further columns by their names, images `(B, 3, H, W)` in [0, 1]; they stand after the reconstruction.

    Returns:
        The picture `(3, H', W')`, uint8, on the CPU.

    Raises:
        ValueError: If the images are not of shape `(B, 3, H, W)`, or the masks or true masks not of their size.

    Example:
        >>> found = Discovery(slots=torch.zeros(2, 3, 8), masks=torch.rand(2, 3, 16, 16).softmax(1))
        >>> discovery_grid(torch.rand(2, 3, 16, 16), found, scale=1, headings=False).shape  # 2 rows, 5 columns
        torch.Size([3, 44, 104])
    """
    _check_sizes(images, discovery.masks, masks)
    images, alpha = _colours(images), discovery.masks.detach().float().nan_to_num(0).cpu()[:, :, None]
    labels = discovery.labels.cpu()
    slots = images[:, None] if discovery.slot_images is None else _colours(discovery.slot_images)
    slots = slots * alpha + 1 - alpha
    dark = background_slot(labels, alpha.shape[1]) if background is None else background.cpu()
    painted = colour_labels(slot_labels(labels, dark)).float() / 255
    columns = {"image": images}
    if discovery.image is not None:
        columns["reconstruction"] = discovery.image
    columns.update(extra or {})
    if masks is not None:
        columns["true masks"] = colour_labels(masks).float() / 255
    columns["masks"] = opacity * painted + (1 - opacity) * images
    columns.update({f"slot {k}": slots[:, k] for k in range(slots.shape[1])})
    return picture_grid(columns, scale=scale, headings=headings)


def picture_grid(columns: Mapping[str, Tensor], *, scale: int | None = None, headings: bool = True) -> Tensor:
    """Draw images in columns that have names.

    Args:
        columns: B images `(B, 3, H, W)` by the name of their column, floats in [0, 1], on any device.
        scale: Factor by which the pixels are enlarged. None: so that small images become readable.
        headings: Write the name of each column above it.

    Returns:
        The picture `(3, H', W')`, uint8, on the CPU.

    Example:
        >>> images = torch.rand(2, 3, 16, 16)
        >>> picture_grid({"before": images, "after": 1 - images}, scale=1, headings=False).shape
        torch.Size([3, 44, 44])
    """
    images = torch.stack([_colours(column) for column in columns.values()], 1)
    factor = scale or max(1, round(_READABLE / max(images.shape[-2:])))
    grid = _tile(images, factor)
    return _with_headings(grid, list(columns), images.shape[-1] * factor) if headings else grid


def draw_boxes(images: Tensor, boxes: Tensor, shown: Tensor) -> Tensor:
    """Draw boxes in images, one pixel wide, each in the colour of its slot.

    Args:
        images: `(B, 3, H, W)`, floats in [0, 1].
        boxes: K for each image, `(B, K, 4)`: x0, y0, x1, y1 in pixels.
        shown: Which of them to draw, bool `(B, K)`.

    Returns:
        The pictures `(B, 3, H, W)`, float32 in [0, 1], on the CPU.

    Example:
        >>> images, boxes = torch.zeros(1, 3, 8, 8), torch.tensor([[[2.0, 2.0, 5.0, 5.0]]])
        >>> draw_boxes(images, boxes, torch.tensor([[True]])).amax((1, 3))
        tensor([[0., 0., 1., 1., 1., 1., 0., 0.]])
    """
    colours = [tuple(int(value) for value in colour) for colour in palette(boxes.shape[1] + 1)[1:]]
    height, width = images.shape[-2:]
    inside = boxes.detach().float().cpu().clamp_min(0).minimum(torch.tensor([width, height] * 2) - 1.0)
    drawn = []
    for image, corners, there in zip(_colours(images), inside, shown.cpu(), strict=True):
        used = [colour for colour, is_there in zip(colours, there.tolist(), strict=True) if is_there]
        pixels = (image * 255).round().byte()
        drawn.append(draw_bounding_boxes(pixels, corners[there], colors=used) if used else pixels)  # type: ignore[arg-type]
    return torch.stack(drawn).float() / 255


def save_png(image: Tensor, path: str | Path) -> None:
    """Write a picture `(3, H, W)`, uint8; the file is there as a whole or not at all.

    Raises:
        ValueError: If the picture is of another shape or type.
        OSError: If the file cannot be written.
    """
    if image.ndim != 3 or len(image) != 3 or image.dtype != torch.uint8:
        raise ValueError(f"Expected argument `image` to be uint8 (3, H, W), but got {image.dtype} {tuple(image.shape)}")
    with atomic_write(path) as beside:
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(beside, format="PNG")


def _check_sizes(images: Tensor, masks: Tensor, true: Tensor | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected argument `images` to be of shape (B, 3, H, W), but got {tuple(images.shape)}")
    batch, _, height, width = images.shape
    if masks.ndim != 4 or (masks.shape[0], *masks.shape[2:]) != (batch, height, width):
        expected = f"({batch}, K, {height}, {width})"
        raise ValueError(f"Expected the masks of argument `discovery` to be {expected}, but got {tuple(masks.shape)}")
    if true is not None and true.shape != (batch, height, width):
        expected = f"({batch}, {height}, {width})"
        raise ValueError(f"Expected argument `masks` to be {expected}, but got {tuple(true.shape)}")


def _colours(images: Tensor) -> Tensor:
    """Bring colours to the CPU and into [0, 1]; what a diverged model paints becomes black."""
    return images.detach().float().nan_to_num(0).clamp(0, 1).cpu()


def _tile(tiles: Tensor, scale: int) -> Tensor:
    """Put tiles `(rows, columns, 3, H, W)` next to each other, with white gutters around each."""
    pixels = (tiles * 255).round().byte().repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    padded = F.pad(pixels, (_GUTTER, 0, _GUTTER, 0), value=255)
    rows = torch.cat(list(padded.unbind(1)), dim=-1)  # (rows, 3, H + gutter, W')
    return F.pad(torch.cat(list(rows), dim=-2), (0, _GUTTER, 0, _GUTTER), value=255)


def _with_headings(grid: Tensor, names: list[str], width: int) -> Tensor:
    """Write a name above each column, as large as the columns' width in pixels allows."""
    size = 13
    while size > 5 and max(ImageFont.load_default(size).getlength(name) for name in names) > width:
        size -= 1
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (grid.shape[-1], size + 2 * _GUTTER), "white")
    draw = ImageDraw.Draw(strip)
    for column, name in enumerate(names):
        draw.text((_GUTTER + column * (width + _GUTTER), _GUTTER), name, fill="black", font=font)
    return torch.cat([torch.from_numpy(np.array(strip)).permute(2, 0, 1), grid], dim=1)
