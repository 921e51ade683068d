"""A picture of some scenes: each image, and beside it its label map in colours."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from object_discovery.visualization.grid import colour_labels

_TILE, _GUTTER = 160, 6


class Example(NamedTuple):
    """A scene to show."""

    image: NDArray[np.uint8]
    """Colours `(H, W, 3)`."""
    mask: NDArray[np.uint8] | None
    """Label map `(H, W)`; 0 is the background, 255 is ignored. None: there is none."""


def contact_sheet(examples: Sequence[Example], tile: int = _TILE) -> Tensor:
    """Draw scenes of any sizes in rows and columns, each image with its label map to its right.

    Args:
        examples: The scenes, at least one.
        tile: Height and width of what an image is brought to, its longer side, in pixels.

    Returns:
        The picture `(3, H', W')`, uint8, roughly square; background is dark grey, ignored pixels are white.

    Raises:
        ValueError: If there is no scene, or the tile has no pixel.

    Example:
        >>> scene = Example(np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8))
        >>> contact_sheet([scene, scene], tile=40).shape  # two rows of 30 pixels, two columns of 40
        torch.Size([3, 78, 98])
    """
    if not examples or tile < 1:
        got = f"{len(examples)} scenes and {tile} pixels"
        raise ValueError(f"Expected at least one scene and tiles of at least one pixel, but got {got}")
    cells = [_cell(example, tile) for example in examples]
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    columns = ceil((len(cells) * height / width) ** 0.5)
    rows = -(-len(cells) // columns)
    step, stride = height + _GUTTER, width + _GUTTER
    sheet = np.full((rows * step + _GUTTER, columns * stride + _GUTTER, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * step + _GUTTER, number % columns * stride + _GUTTER
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return torch.from_numpy(sheet).permute(2, 0, 1).contiguous()


def _cell(example: Example, tile: int) -> NDArray[np.uint8]:
    """Put an image and its coloured label map side by side, brought to a common size."""
    height, width = example.image.shape[:2]
    scale = tile / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    larger = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    parts = [np.asarray(Image.fromarray(example.image).resize(size, larger))]
    if example.mask is not None:
        labels = np.array(Image.fromarray(example.mask).resize(size, Image.Resampling.NEAREST))
        painted = colour_labels(torch.from_numpy(labels)).permute(1, 2, 0).numpy()
        parts += [np.full((size[1], _GUTTER, 3), 255, np.uint8), painted]
    return np.concatenate(parts, axis=1)
