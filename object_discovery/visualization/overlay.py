"""Overlay of a segmentation on an image at its full resolution: tinted segments with outlines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.visualization.palette import MASK_ALPHA

_MIN_SIZE = 512
_WIDTHS_PER_SIDE = 400  # longer side of the image divided by the width of an outline


def draw_segments(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint8]
) -> Tensor:
    """Tint the segments of an image and outline them in white with a black edge.

    The background is not tinted. The outlines are wider on larger images. Images whose longer side is below 512 pixels
    are enlarged by an integer factor.

    Args:
        image: RGB image, `(H, W, 3)`.
        labels: Label map, `(H, W)`: 0 is the background, 255 is ignored.
        colours: RGB colour of each label, `(256, 3)`; it is blended with the image at opacity `MASK_ALPHA`.

    Returns:
        The overlay `(3, H', W')`, uint8; H' = H and W' = W unless the image is enlarged.

    Example:
        >>> draw_segments(np.zeros((300, 700, 3), np.uint8), np.eye(300, 700, dtype=np.uint8),
        ...     np.zeros((256, 3), np.uint8)).shape
        torch.Size([3, 300, 700])
    """
    factor = -(-_MIN_SIZE // max(labels.shape))
    alpha = np.full(256, MASK_ALPHA, np.float32)
    alpha[0] = 0
    alpha = alpha[labels][..., None]
    tinted = (image * (1 - alpha) + colours[labels] * alpha + 0.5).astype(np.uint8)
    overlay = torch.from_numpy(tinted).permute(2, 0, 1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    enlarged = torch.from_numpy(labels).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    edges, width = _edges(enlarged), outline_width(*enlarged.shape)
    overlay[:, _dilate(edges, 3 * width)] = 0
    overlay[:, _dilate(edges, width)] = 255
    return overlay


def outline_width(height: int, width: int) -> int:
    """Return the width in pixels of the white line of an outline in an image of this size.

    Example:
        >>> outline_width(480, 640), outline_width(3000, 4000)
        (2, 10)
    """
    return max(1, round(max(height, width) / _WIDTHS_PER_SIDE))


def _edges(labels: Tensor) -> Tensor:
    """Mark the pixels `(H, W)` whose right or lower neighbour has another label."""
    edges = torch.zeros_like(labels, dtype=torch.bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _dilate(edges: Tensor, width: int) -> Tensor:
    """Dilate lines of one pixel to `width` pixels, or one more where that is even."""
    radius = width // 2
    lines = edges[None].float()
    lines = F.max_pool2d(lines, (2 * radius + 1, 1), 1, (radius, 0))
    return F.max_pool2d(lines, (1, 2 * radius + 1), 1, (0, radius))[0] > 0
