"""Cropping and resizing of NumPy images and label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Crop = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


def crop_array(frame: NDArray[Any], crop: Crop | None) -> NDArray[Any]:
    """Crop an array `(H, W, ...)`; None: no crop.

    Example:
        >>> crop_array(np.arange(6).reshape(2, 3), (1, 1, 1, 2)).tolist()
        [[4, 5]]
    """
    if crop is None:
        return frame
    top, left, height, width = crop
    return frame[top : top + height, left : left + width]


def inner_square(crop: Crop) -> Crop:
    """Return the central square of a crop.

    Args:
        crop: Top, left, height and width.

    Returns:
        Top, left, side and side of the largest central square.

    Example:
        >>> inner_square((0, 70, 480, 500))
        (0, 80, 480, 480)
    """
    top, left, height, width = crop
    side = min(height, width)
    return top + (height - side) // 2, left + (width - side) // 2, side, side


def central_square(pixels: NDArray[Any]) -> NDArray[Any]:
    """Crop the central square of an image.

    Args:
        pixels: An image or label map, `(H, W, ...)`.

    Returns:
        A view of the square, `(S, S, ...)`, where S is the smaller of H and W.

    Example:
        >>> central_square(np.array([[1, 2, 3, 4, 5]]))
        array([[3]])
    """
    top, left, side, _ = inner_square((0, 0, *pixels.shape[:2]))
    return pixels[top : top + side, left : left + side]


def resize_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a label map by nearest-neighbour interpolation, like `nearest-exact` of PyTorch.

    Args:
        labels: Label map, `(H, W)`.
        size: Height and width of the result.

    Returns:
        The resized label map.

    Example:
        >>> resize_labels(np.array([[1, 2, 3, 4, 5, 6]], np.uint8), (1, 2)).tolist()
        [[2, 5]]
    """
    rows, columns = (
        ((np.arange(target) + 0.5) * (source / target)).astype(np.int64).clip(max=source - 1)
        for target, source in zip(size, labels.shape, strict=True)
    )
    resized: NDArray[np.uint8] = labels[rows[:, None], columns]
    return resized
