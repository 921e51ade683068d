"""Contact sheet of a dataset: scenes in rows and columns, each image with its coloured label map."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from object_discovery.visualization.palette import colour_labels

_TILE, _GUTTER = 160, 6


class Example(NamedTuple):
    """A scene to show."""

    image: NDArray[np.uint8]
    """RGB image, `(H, W, 3)`."""
    mask: NDArray[np.uint8] | None
    """Label map, `(H, W)`; 0 is the background, 255 is ignored. None: the dataset has no masks."""


def contact_sheet(examples: Sequence[Example], tile: int = _TILE) -> Tensor:
    """Arrange scenes of any sizes in rows and columns, each image with its label map to its right.

    Args:
        examples: The scenes, at least one.
        tile: Size to which the longer side of each image is resized, in pixels.

    Returns:
        The contact sheet `(3, H', W')`, uint8, roughly square; the background is dark grey, ignored pixels are white.

    Raises:
        ValueError: If there is no scene, or `tile` is below 1.

    Example:
        >>> scene = Example(np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8))
        >>> contact_sheet([scene, scene], tile=40).shape  # two rows of 30 pixels, two columns of 40
        torch.Size([3, 78, 98])
    """
    if not examples:
        raise ValueError("Expected argument `examples` to be at least one scene, but got none")
    if tile < 1:
        raise ValueError(f"Expected argument `tile` to be at least 1, but got {tile}")
    cells = [_cell(example, tile) for example in examples]
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    columns = ceil((len(cells) * height / width) ** 0.5)
    rows = -(-len(cells) // columns)
    row_step, column_step = height + _GUTTER, width + _GUTTER
    sheet = np.full((rows * row_step + _GUTTER, columns * column_step + _GUTTER, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * row_step + _GUTTER, index % columns * column_step + _GUTTER
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return torch.from_numpy(sheet).permute(2, 0, 1).contiguous()


def _cell(example: Example, tile: int) -> NDArray[np.uint8]:
    """Resize an image and its coloured label map, and put them side by side."""
    height, width = example.image.shape[:2]
    scale = tile / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    parts = [np.asarray(Image.fromarray(example.image).resize(size, resampling))]
    if example.mask is not None:
        labels = np.array(Image.fromarray(example.mask).resize(size, Image.Resampling.NEAREST))
        coloured = colour_labels(torch.from_numpy(labels)).permute(1, 2, 0).numpy()
        parts += [np.full((size[1], _GUTTER, 3), 255, np.uint8), coloured]
    return np.concatenate(parts, axis=1)
