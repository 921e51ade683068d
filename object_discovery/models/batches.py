"""Batches of any Lightning project: a tensor of images, `(images, label)`, or a dict with `image`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from object_discovery.discovery import Batch

_TOLERANCE = 0.01  # interpolation may overshoot a little


def as_batch(batch: Any) -> Batch:
    """Bring a batch into the form that models work with.

    Args:
        batch: A tensor of images `(B, 3, H, W)`; a tuple or list that begins with one, whose other entries are
            ignored; or a dict with `image`.

    Returns:
        A dict with `image`, and whatever else the given dict has.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> sorted(as_batch((torch.zeros(2, 3, 8, 8), torch.zeros(2))))
        ['image']
    """
    if isinstance(batch, Mapping):
        images = batch.get("image")
    else:
        images = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
    if not isinstance(images, Tensor):
        actual = f"a dict with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        expected = "a tensor of images, a tuple that begins with one, or a dict with `image`"
        raise ValueError(f"Expected argument `batch` to be {expected}, but got {actual}")
    return {**batch, "image": images} if isinstance(batch, Mapping) else {"image": images}


def as_floats(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert images to floating point: bytes to [0, 1], other types as they are.

    Args:
        images: `(B, 3, H, W)`, uint8 or floats in [0, 1].
        dtype: The floating-point type of the result.

    Raises:
        ValueError: If the images are of another integer type.

    Example:
        >>> as_floats(torch.tensor([[[[255]]]], dtype=torch.uint8), torch.float32).item()
        1.0
    """
    if images.dtype == torch.uint8:
        return images.to(memory_format=torch.channels_last).float().div_(255).to(dtype)
    if not images.is_floating_point():
        raise ValueError(f"Expected argument `images` to be uint8 or floats in [0, 1], but got {images.dtype}")
    return images.to(dtype)


def check_range(images: Tensor) -> None:
    """Check that floating-point images lie in [0, 1]; on a GPU this waits for the device.

    Args:
        images: Any shape.

    Raises:
        ValueError: If a value is NaN or outside of [0, 1] by more than 0.01, what interpolation may overshoot by.

    Example:
        >>> check_range(torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ValueError: Expected argument `images` to be in [0, 1], but got values from 0 to 255
    """
    if not images.numel():
        return
    low, high = (float(value) for value in images.detach().aminmax())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise ValueError(f"Expected argument `images` to be in [0, 1], but got values from {low:g} to {high:g}")
