"""File schemas of DeepMind's Multi-Object Datasets.

Reference:
    Kabra et al., Multi-Object Datasets, 2019, https://github.com/google-deepmind/multi_object_datasets
"""

from __future__ import annotations

from dataclasses import dataclass

from object_discovery.data.geometry import Crop


@dataclass(frozen=True)
class DatasetSchema:
    """Shapes and features by which the files of a dataset are recognised, and the layout of its masks."""

    name: str
    """Name of the dataset."""
    image: tuple[int, int, int]
    """Height, width and channels of the images."""
    entities: tuple[int, ...]
    """Possible numbers of entities per scene, with the background."""
    variant: str | None = None
    """Variant of the dataset, if it has several."""
    visibility: bool = True
    """Whether the files have the feature `visibility`."""
    background_entities: int = 1
    """Number of leading entities that are background."""
    entity_axis: int = 0
    """Axis of the entities in the `mask` of a TFRecord."""
    crop: Crop | None = None
    """Crop of the published experiments, if any."""


DATASET_SCHEMAS = (
    DatasetSchema("tetrominoes", (35, 35, 3), (4,)),
    DatasetSchema("multi_dsprites", (64, 64, 1), (4,), "binarized", entity_axis=2),
    DatasetSchema("multi_dsprites", (64, 64, 3), (6,), "colored_on_grayscale", entity_axis=2),
    DatasetSchema("multi_dsprites", (64, 64, 3), (5,), "colored_on_colored", entity_axis=2),
    DatasetSchema("objects_room", (64, 64, 3), (4, 7, 10), visibility=False, background_entities=4),
    DatasetSchema("clevr_with_masks", (240, 320, 3), (11,), crop=(29, 64, 192, 192)),
)
"""Schemas of all datasets and variants."""


def find_schema(image: tuple[int, ...], entities: int, visibility: bool) -> DatasetSchema | None:
    """Find the dataset that a file belongs to.

    Args:
        image: Height, width and channels of the images.
        entities: Number of entities per scene.
        visibility: Whether the file has the feature `visibility`.

    Returns:
        The schema; None if the file belongs to no known dataset.

    Example:
        >>> find_schema((35, 35, 3), 4, True).name
        'tetrominoes'
    """
    for schema in DATASET_SCHEMAS:
        if schema.image == tuple(image) and entities in schema.entities and schema.visibility == visibility:
            return schema
    return None
