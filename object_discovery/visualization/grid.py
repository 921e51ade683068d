"""Image grids: a row for each image, a column for each kind of picture."""

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
from object_discovery.visualization.matching import slot_colours
from object_discovery.visualization.palette import MASK_ALPHA, colour_labels, palette

_GUTTER = 4
_TARGET_SIZE = 128  # smaller images are enlarged to about this size
_FONT_SIZES = range(13, 4, -1)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def plot_discovery(images: Tensor, discovery: Discovery, masks: Tensor | None = None) -> Image.Image:
    """Plot what a model finds in a batch of images; a notebook displays the returned image.

    Args:
        images: Images `(B, 3, H, W)`, floats in [0, 1] or uint8, on any device.
        discovery: Output of the model for these images.
        masks: True label maps `(B, H, W)`; 0 is the background, 255 is ignored. None: unknown.

    Returns:
        The grid of `discovery_grid`; `.save(path)` writes it to a file.

    Raises:
        ValueError: If the sizes of images, predicted masks and true masks differ.

    Example:
        >>> discovery = Discovery(slots=torch.zeros(2, 3, 8), masks=torch.rand(2, 3, 16, 16).softmax(1))
        >>> plot_discovery(torch.rand(2, 3, 16, 16), discovery).size
        (664, 289)
    """
    return _to_pil(discovery_grid(images, discovery, masks=masks))


def discovery_grid(
    images: Tensor,
    discovery: Discovery,
    *,
    masks: Tensor | None = None,
    background: Tensor | None = None,
    scale: int | None = None,
    headings: bool = True,
    extra: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Render a row for each image: image, reconstruction, true masks, predicted masks, and each slot on white.

    The masks are laid over the greyscale image at opacity `MASK_ALPHA`. Where true masks are given, a predicted mask
    has the colour of the true object it matches, see `slot_colours`; otherwise a slot has the same colour in every row.

    Args:
        images: Images `(B, 3, H, W)`, floats in [0, 1] or uint8, on any device.
        discovery: Output of the model for these images, with K slots.
        masks: True label maps `(B, H, W)`; 0 is the background, 255 is ignored. None: no such column.
        background: Background slot of each image, `(B,)`. None: by the rule of `background_slot`.
        scale: Integer factor by which images are enlarged. None: so that they have about 128 pixels.
        headings: Write the name of each column above it.
        extra: Further columns by name, images `(B, 3, H, W)` in [0, 1]; they follow the reconstruction.

    Returns:
        The grid `(3, H', W')`, uint8, on the CPU.

    Raises:
        ValueError: If the sizes of images, predicted masks and true masks differ.

    Example:
        >>> discovery = Discovery(slots=torch.zeros(2, 3, 8), masks=torch.rand(2, 3, 16, 16).softmax(1))
        >>> discovery_grid(torch.rand(2, 3, 16, 16), discovery, scale=1, headings=False).shape  # 2 rows, 5 columns
        torch.Size([3, 44, 104])
    """
    _check_sizes(images, discovery.masks, masks)
    images = _to_unit_range(images)
    columns = {"image": images}
    if discovery.image is not None:
        columns["reconstruction"] = discovery.image
    columns.update(extra or {})
    if masks is not None:
        columns["true masks"] = _overlay_labels(images, masks.cpu())
    columns["masks"] = _overlay_labels(images, _predicted_labels(discovery, background, masks))
    alpha = discovery.masks.detach().float().nan_to_num(0).cpu()[:, :, None]
    slots = images[:, None] if discovery.slot_images is None else _to_unit_range(discovery.slot_images)
    slots = slots * alpha + 1 - alpha
    columns.update({f"slot {k}": slots[:, k] for k in range(slots.shape[1])})
    return picture_grid(columns, scale=scale, headings=headings)


def _predicted_labels(discovery: Discovery, background: Tensor | None, masks: Tensor | None) -> Tensor:
    """Turn predicted masks into label maps `(B, H, W)` in the colours of `slot_colours`, on the CPU."""
    labels, num_slots = discovery.labels.cpu(), discovery.masks.shape[1]
    background = background_slot(labels, num_slots) if background is None else background.cpu()
    colours = slot_colours(labels, background, num_slots, masks)
    return colours.gather(1, labels.flatten(1)).view_as(labels)


def _overlay_labels(images: Tensor, labels: Tensor) -> Tensor:
    """Blend images `(B, 3, H, W)` in [0, 1] with their coloured label maps `(B, H, W)`.

    The images become greyscale first, so that the colours of an image do not change those of the masks.
    """
    grey = torch.tensordot(images, images.new_tensor(_LUMA), dims=([1], [0]))[:, None]
    return torch.lerp(grey, colour_labels(labels).float() / 255, MASK_ALPHA)


def picture_grid(columns: Mapping[str, Tensor], *, scale: int | None = None, headings: bool = True) -> Tensor:
    """Arrange images in named columns.

    Args:
        columns: Images of each column by its name, `(B, 3, H, W)`, floats in [0, 1] or uint8, on any device.
        scale: Integer factor by which images are enlarged. None: so that they have about 128 pixels.
        headings: Write the name of each column above it.

    Returns:
        The grid `(3, H', W')`, uint8, on the CPU.

    Example:
        >>> images = torch.rand(2, 3, 16, 16)
        >>> picture_grid({"before": images, "after": 1 - images}, scale=1, headings=False).shape
        torch.Size([3, 44, 44])
    """
    images = torch.stack([_to_unit_range(column) for column in columns.values()], 1)
    factor = scale or max(1, round(_TARGET_SIZE / max(images.shape[-2:])))
    grid = _tile(images, factor)
    return _with_headings(grid, list(columns), images.shape[-1] * factor) if headings else grid


def draw_boxes(images: Tensor, boxes: Tensor, shown: Tensor) -> Tensor:
    """Plot bounding boxes on images, one pixel wide, in the first colour of the palette.

    Args:
        images: Images `(B, 3, H, W)`, floats in [0, 1] or uint8.
        boxes: K boxes for each image, `(B, K, 4)`: x0, y0, x1, y1 in pixels; they are clipped to the image.
        shown: Which boxes to draw, `(B, K)`, bool.

    Returns:
        Images `(B, 3, H, W)`, float32 in [0, 1], on the CPU.

    Example:
        >>> images, boxes = torch.zeros(1, 3, 8, 8), torch.tensor([[[2.0, 2.0, 5.0, 5.0]]])
        >>> draw_boxes(images, boxes, torch.tensor([[True]])).amax((1, 3))
        tensor([[0., 0., 1., 1., 1., 1., 0., 0.]])
    """
    colour = tuple(palette(2)[1].tolist())
    height, width = images.shape[-2:]
    boxes = boxes.detach().float().cpu().clamp_min(0).minimum(torch.tensor([width, height] * 2) - 1.0)
    results = []
    for image, image_boxes, mask in zip(_to_unit_range(images), boxes, shown.cpu(), strict=True):
        pixels = (image * 255).round().byte()
        results.append(draw_bounding_boxes(pixels, image_boxes[mask], colors=colour) if mask.any() else pixels)
    return torch.stack(results).float() / 255


def save_png(image: Tensor, path: str | Path) -> None:
    """Write an RGB image `(3, H, W)`, uint8, atomically: a reader never sees half a file.

    Raises:
        ValueError: If the image has another shape or type.
        OSError: If the file cannot be written.
    """
    if image.ndim != 3 or len(image) != 3 or image.dtype != torch.uint8:
        raise ValueError(f"Expected argument `image` to be uint8 (3, H, W), but got {image.dtype} {tuple(image.shape)}")
    with atomic_write(path) as temporary:
        _to_pil(image).save(temporary, format="PNG")


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def _check_sizes(images: Tensor, predicted: Tensor, true: Tensor | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected argument `images` to be of shape (B, 3, H, W), but got {tuple(images.shape)}")
    batch, _, height, width = images.shape
    if predicted.ndim != 4 or (predicted.shape[0], *predicted.shape[2:]) != (batch, height, width):
        expected = f"({batch}, K, {height}, {width})"
        shape = tuple(predicted.shape)
        raise ValueError(f"Expected the masks of argument `discovery` to be {expected}, but got {shape}")
    if true is not None and true.shape != (batch, height, width):
        expected = f"({batch}, {height}, {width})"
        raise ValueError(f"Expected argument `masks` to be {expected}, but got {tuple(true.shape)}")


def _to_unit_range(images: Tensor) -> Tensor:
    """Convert images to float32 in [0, 1] on the CPU; NaN, as of a diverged model, becomes black."""
    images = images.detach().float() if images.is_floating_point() else images.float() / 255
    return images.nan_to_num(0).clamp(0, 1).cpu()


def _tile(tiles: Tensor, scale: int) -> Tensor:
    """Arrange tiles `(rows, columns, 3, H, W)` in a grid with white gutters."""
    pixels = (tiles * 255).round().byte().repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    padded = F.pad(pixels, (_GUTTER, 0, _GUTTER, 0), value=255)
    rows = torch.cat(list(padded.unbind(1)), dim=-1)  # (rows, 3, H + gutter, W')
    return F.pad(torch.cat(list(rows), dim=-2), (0, _GUTTER, 0, _GUTTER), value=255)


def _with_headings(grid: Tensor, names: list[str], width: int) -> Tensor:
    """Write a name above each column, in the largest font in which every name fits into `width` pixels."""
    fits = (size for size in _FONT_SIZES if max(map(ImageFont.load_default(size).getlength, names)) <= width)
    size = next(fits, _FONT_SIZES[-1])
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (grid.shape[-1], size + 2 * _GUTTER), "white")
    draw = ImageDraw.Draw(strip)
    for column, name in enumerate(names):
        draw.text((_GUTTER + column * (width + _GUTTER), _GUTTER), name, fill="black", font=font)
    return torch.cat([torch.from_numpy(np.array(strip)).permute(2, 0, 1), grid], dim=1)
