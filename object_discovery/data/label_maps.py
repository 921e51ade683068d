"""Label maps: one integer for each pixel, 0 background, 255 ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, cut
from object_discovery.discovery import IGNORED


def label_map(masks: NDArray[Any], background_entities: int = 1) -> NDArray[np.uint8]:
    """Turn a mask for each entity into one label map.

    Args:
        masks: Masks `(E, H, W)`; an entity covers the pixels that are not 0.
        background_entities: How many of the first entities are background.

    Returns:
        Labels `(H, W)`: 0 for the background, then 1, 2, ...; 255 where no entity is. The lowest entity wins.

    Example:
        >>> label_map(np.array([[[255, 0, 0]], [[0, 255, 0]]], np.uint8))
        array([[  0,   1, 255]], dtype=uint8)
    """
    # The largest of 255 minus the label of each entity that is there: passes over bytes are faster than choosing.
    best = np.zeros(masks.shape[1:], np.uint8)
    there = np.empty(masks.shape[1:], np.bool_)
    for entity, mask in enumerate(masks):
        np.not_equal(mask, 0, out=there)
        weight = there.view(np.uint8)
        weight *= np.uint8(IGNORED - max(0, entity + 1 - background_entities))
        np.maximum(best, weight, out=best)
    return np.asarray(IGNORED - best, np.uint8)


def count_pixels(labels: NDArray[np.uint8], num_labels: int, crop: Crop | None = None) -> NDArray[np.int32]:
    """Count the pixels of each label.

    Args:
        labels: Label map `(H, W)`.
        num_labels: How many labels to count, E.
        crop: Count in this part of the map only.

    Returns:
        Pixels of the labels 0, 1, ..., `(E,)`.

    Example:
        >>> count_pixels(np.array([[0, 1, 255]], np.uint8), 3)
        array([1, 1, 0], dtype=int32)
    """
    return np.bincount(cut(labels, crop).ravel(), minlength=256)[:num_labels].astype(np.int32)


def count_labels(labels: NDArray[np.uint8]) -> int:
    """Count the objects of a label map: the labels but 0 and 255.

    Example:
        >>> count_labels(np.array([[0, 1, 1], [7, 255, 0]], np.uint8))
        2
    """
    return int(np.count_nonzero(np.bincount(labels.ravel(), minlength=256)[1:IGNORED]))


def compact_labels(ids: NDArray[Any], *, ignore: int | None = None) -> NDArray[np.uint8]:
    """Relabel the objects of an image 1, 2, 3, ... in the order of their ids.

    Args:
        ids: Integer ids `(H, W)`, where 0 is the background; or RGB colours `(H, W, 3)`, where black is.
        ignore: Id of the pixels to ignore; of colours `red * 65536 + green * 256 + blue`. None: no such id.

    Returns:
        Labels, uint8 `(H, W)`: 0 background, 1 to 254 objects, 255 ignored.

    Raises:
        ValueError: If there are more than 254 objects, negative ids, or the shape is another.

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
