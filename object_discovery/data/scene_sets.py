"""The datasets of DeepMind's multi_object_datasets, and how their masks become label maps.

Reference:
    Kabra et al., Multi-Object Datasets, 2019, https://github.com/google-deepmind/multi_object_datasets
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = 255
"""Label of the pixels that no entity covers."""

Crop = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


@dataclass(frozen=True)
class SceneSet:
    """What tells one of DeepMind's multi_object_datasets from the others."""

    name: str
    """Name of the dataset."""
    image: tuple[int, int, int]
    """Height, width and channels of its images."""
    entities: tuple[int, ...]
    """Numbers of entities that its files have."""
    variant: str | None = None
    """Variant of the dataset, where it has several."""
    visibility: bool = True
    """Whether its files say which entities are visible."""
    background_entities: int = 1
    """How many of the first entities are background."""
    entity_axis: int = 0
    """Axis of the entities in the TFRecord's mask."""
    crop: Crop | None = None
    """The published crop."""


SCENE_SETS = (
    SceneSet("tetrominoes", (35, 35, 3), (4,)),
    SceneSet("multi_dsprites", (64, 64, 1), (4,), "binarized", entity_axis=2),
    SceneSet("multi_dsprites", (64, 64, 3), (6,), "colored_on_grayscale", entity_axis=2),
    SceneSet("multi_dsprites", (64, 64, 3), (5,), "colored_on_colored", entity_axis=2),
    SceneSet("objects_room", (64, 64, 3), (4, 7, 10), visibility=False, background_entities=4),
    SceneSet("clevr_with_masks", (240, 320, 3), (11,), crop=(29, 64, 192, 192)),
)
"""The known datasets."""


def cut(frame: NDArray[Any], crop: Crop | None) -> NDArray[Any]:
    """Return a part of a frame `(H, W, ...)`; None is all of it.

    Example:
        >>> cut(np.arange(6).reshape(2, 3), (1, 1, 1, 2)).tolist()
        [[4, 5]]
    """
    if crop is None:
        return frame
    top, left, height, width = crop
    return frame[top : top + height, left : left + width]


def inner_square(crop: Crop) -> Crop:
    """Return the central square of a part of the frame.

    Args:
        crop: The part.

    Returns:
        The largest square in its middle.

    Example:
        >>> inner_square((0, 70, 480, 500))
        (0, 80, 480, 480)
    """
    top, left, height, width = crop
    side = min(height, width)
    return top + (height - side) // 2, left + (width - side) // 2, side, side


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


def find_scene_set(image: tuple[int, ...], entities: int, visibility: bool) -> SceneSet | None:
    """Find the dataset whose files look so.

    Args:
        image: Height, width and channels.
        entities: Number of entities.
        visibility: Whether the file says which entities are visible.

    Returns:
        The dataset, or None if it is none of the known ones.

    Example:
        >>> find_scene_set((35, 35, 3), 4, True).name
        'tetrominoes'
    """
    for known in SCENE_SETS:
        if known.image == tuple(image) and entities in known.entities and known.visibility == visibility:
            return known
    return None
