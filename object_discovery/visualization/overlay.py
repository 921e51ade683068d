"""Draw segments over a photograph, at its own size, so that they can be told apart at any."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_OPACITY = 0.45
_SMALLEST = 512
_LINES = 400  # an outline is as wide as this part of the longer side


def draw_segments(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint8]
) -> Tensor:
    """Tint the segments of an image and outline them in white with black rims.

    The background keeps its colours; what is ignored becomes pale. The width of the lines grows with the image. Images
    of less than 512 pixels are enlarged by a whole number.

    Args:
        image: Colours `(H, W, 3)`.
        labels: Segments `(H, W)`: 0 is the background, 255 is ignored.
        colours: The colour of each label, `(256, 3)`.

    Returns:
        A picture `(3, H', W')`, uint8, where H' = H and W' = W for images that are large enough.

    Example:
        >>> draw_segments(np.zeros((300, 700, 3), np.uint8), np.eye(300, 700, dtype=np.uint8),
        ...     np.zeros((256, 3), np.uint8)).shape
        torch.Size([3, 300, 700])
    """
    factor = -(-_SMALLEST // max(labels.shape))
    strength = np.full(256, _OPACITY, np.float32)
    strength[0] = 0
    share = strength[labels][..., None]
    tinted = (image * (1 - share) + colours[labels] * share + 0.5).astype(np.uint8)
    picture = torch.from_numpy(tinted).permute(2, 0, 1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    enlarged = torch.from_numpy(labels).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    edges, width = _edges(enlarged), outline_width(*enlarged.shape)
    picture[:, _widen(edges, 3 * width)] = 0
    picture[:, _widen(edges, width)] = 255
    return picture


def outline_width(height: int, width: int) -> int:
    """Return how many pixels wide the white of an outline is in an image.

    Example:
        >>> outline_width(480, 640), outline_width(3000, 4000)
        (2, 10)
    """
    return max(1, round(max(height, width) / _LINES))


def _edges(labels: Tensor) -> Tensor:
    """Mark the pixels `(H, W)` whose right or lower neighbour is of another segment."""
    edges = torch.zeros_like(labels, dtype=torch.bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _widen(edges: Tensor, width: int) -> Tensor:
    """Widen lines of one pixel, to an odd number."""
    reach = width // 2
    lines = edges[None].float()
    lines = F.max_pool2d(lines, (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(lines, (1, 2 * reach + 1), 1, (0, reach))[0] > 0
