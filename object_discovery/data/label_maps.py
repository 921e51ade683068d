"""Label maps: one integer for each pixel, 0 background, 255 ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, crop_array
from object_discovery.discovery import IGNORED


def label_map(masks: NDArray[Any], background_entities: int = 1) -> NDArray[np.uint8]:
    """Convert entity masks to a label map.

    Args:
        masks: Masks `(E, H, W)`, nonzero where an entity covers a pixel.
        background_entities: Number of leading entities that are background.

    Returns:
        Labels, uint8 `(H, W)`: 0 background, 1, 2, ... the other entities, 255 where there is none. Where masks
        overlap, the first entity wins.

    Example:
        >>> label_map(np.array([[[255, 0, 0]], [[0, 255, 0]]], np.uint8))
        array([[  0,   1, 255]], dtype=uint8)
    """
    # The maximum over entities of 255 minus the label, in place on bytes, is faster than np.argmax.
    maximum = np.zeros(masks.shape[1:], np.uint8)
    is_covered = np.empty(masks.shape[1:], np.bool_)
    for entity, mask in enumerate(masks):
        np.not_equal(mask, 0, out=is_covered)
        inverted = is_covered.view(np.uint8)
        inverted *= np.uint8(IGNORED - max(0, entity + 1 - background_entities))
        np.maximum(maximum, inverted, out=maximum)
    return np.asarray(IGNORED - maximum, np.uint8)


def count_pixels(labels: NDArray[np.uint8], num_labels: int, crop: Crop | None = None) -> NDArray[np.int32]:
    """Count the pixels of each label.

    Args:
        labels: Label map `(H, W)`.
        num_labels: Number E of labels to count.
        crop: Count inside this crop only. None: in the whole map.

    Returns:
        Number of pixels of the labels 0, 1, ..., E - 1, `(E,)`.

    Example:
        >>> count_pixels(np.array([[0, 1, 255]], np.uint8), 3)
        array([1, 1, 0], dtype=int32)
    """
    return np.bincount(crop_array(labels, crop).ravel(), minlength=256)[:num_labels].astype(np.int32)


def count_labels(labels: NDArray[np.uint8]) -> int:
    """Count the objects of a label map: the labels other than 0 and 255.

    Example:
        >>> count_labels(np.array([[0, 1, 1], [7, 255, 0]], np.uint8))
        2
    """
    return int(np.count_nonzero(np.bincount(labels.ravel(), minlength=256)[1:IGNORED]))


def compact_labels(ids: NDArray[Any], *, ignore: int | None = None) -> NDArray[np.uint8]:
    """Relabel the objects of an image 1, 2, 3, ... in the order of their ids.

    Args:
        ids: Integer ids `(H, W)`, 0 for the background; or RGB colours `(H, W, 3)`, black for the background.
        ignore: Id of ignored pixels; of colours `red * 65536 + green * 256 + blue`. None: no pixel is ignored.

    Returns:
        Labels, uint8 `(H, W)`: 0 background, 1 to 254 objects, 255 ignored.

    Raises:
        ValueError: If there are more than 254 objects, an id is negative, or the shape is invalid.

    Example:
        >>> compact_labels(np.array([[0, 26001, 26002], [24000, 65535, 0]]), ignore=65535).tolist()
        [[0, 2, 3], [1, 255, 0]]
        >>> compact_labels(np.array([[[0, 0, 0], [255, 0, 0], [0, 255, 0]]], np.uint8)).tolist()
        [[0, 2, 1]]
    """
    if ids.ndim == 3 and ids.shape[2] == 3:
        ids = ids.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    if ids.ndim != 2:
        raise ValueError(f"Expected argument `ids` to be (H, W) or (H, W, 3), but got {ids.shape}")
    values, inverse = np.unique(ids, return_inverse=True)
    if len(values) and values[0] < 0:
        raise ValueError(f"expected labels of at least 0, but got {values[0]}")
    is_object = (values != 0) if ignore is None else (values != 0) & (values != ignore)
    if is_object.sum() >= IGNORED:
        raise ValueError(f"expected at most {IGNORED - 1} objects in an image, but got {is_object.sum()}")
    labels = np.where(is_object, np.cumsum(is_object), 0)
    if ignore is not None:
        labels[values == ignore] = IGNORED
    return labels.astype(np.uint8)[inverse].reshape(ids.shape)
