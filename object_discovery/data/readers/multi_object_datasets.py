"""The datasets of DeepMind's multi_object_datasets, and how their masks become label maps.

Reference:
    Kabra et al., Multi-Object Datasets, 2019, https://github.com/google-deepmind/multi_object_datasets
"""

from __future__ import annotations

from dataclasses import dataclass

from object_discovery.data.geometry import Crop


@dataclass(frozen=True)
class DatasetSchema:
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


DATASET_SCHEMAS = (
    DatasetSchema("tetrominoes", (35, 35, 3), (4,)),
    DatasetSchema("multi_dsprites", (64, 64, 1), (4,), "binarized", entity_axis=2),
    DatasetSchema("multi_dsprites", (64, 64, 3), (6,), "colored_on_grayscale", entity_axis=2),
    DatasetSchema("multi_dsprites", (64, 64, 3), (5,), "colored_on_colored", entity_axis=2),
    DatasetSchema("objects_room", (64, 64, 3), (4, 7, 10), visibility=False, background_entities=4),
    DatasetSchema("clevr_with_masks", (240, 320, 3), (11,), crop=(29, 64, 192, 192)),
)
"""The known datasets."""


def find_schema(image: tuple[int, ...], entities: int, visibility: bool) -> DatasetSchema | None:
    """Find the dataset whose files look so.

    Args:
        image: Height, width and channels.
        entities: Number of entities.
        visibility: Whether the file says which entities are visible.

    Returns:
        The dataset, or None if it is none of the known ones.

    Example:
        >>> find_schema((35, 35, 3), 4, True).name
        'tetrominoes'
    """
    for known in DATASET_SCHEMAS:
        if known.image == tuple(image) and entities in known.entities and known.visibility == visibility:
            return known
    return None
