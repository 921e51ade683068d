"""The settings recommended for each dataset."""

from __future__ import annotations

from typing import Any

from object_discovery.errors import DatasetNotFoundError

RECOMMENDED: dict[str, dict[str, Any]] = {
    "clevr": {"resolution": 128, "num_slots": 11, "max_steps": 100_000},
    "clevr_with_masks": {"resolution": 128, "num_slots": 7, "max_steps": 100_000, "max_objects": 6},
    "clevrtex": {"resolution": 128, "num_slots": 11, "max_steps": 100_000},
    "coco": {"resolution": 224, "num_slots": 7, "max_steps": 500_000, "random_flip": True},
    "folder": {"resolution": 128, "num_slots": 7, "max_steps": 100_000},
    "multi_dsprites": {"resolution": 64, "num_slots": 6, "max_steps": 30_000},
    "objects_room": {"resolution": 64, "num_slots": 7, "max_steps": 100_000},
    "ravens": {"resolution": 128, "num_slots": 10, "max_steps": 100_000},
    "scenes": {"resolution": 128, "num_slots": 7, "max_steps": 100_000, "max_objects": 6},
    "shapes3d": {"resolution": 64, "num_slots": 3, "max_steps": 160_000},
    "sketchy": {"resolution": 128, "num_slots": 10, "max_steps": 100_000},
    "tetrominoes": {
        "resolution": 35,
        "num_slots": 4,
        "batch_size": 16,
        "max_steps": 5000,
        "clusters": "appearance",
    },
    "voc": {"resolution": 224, "num_slots": 6, "max_steps": 300_000, "random_flip": True},
}
"""Defaults of the command line by the name of the dataset; a key is a field of any of the parameter classes.

They are apart from the datasets, which take seconds to import, so that `--help` can show them at once.
"""


def recommended_settings(dataset: str) -> dict[str, Any]:
    """Return the settings recommended for a dataset.

    Args:
        dataset: Name of the dataset.

    Raises:
        DatasetNotFoundError: If there is no dataset of this name.

    Example:
        >>> recommended_settings("tetrominoes")["num_slots"]
        4
    """
    if dataset not in RECOMMENDED:
        names = ", ".join(RECOMMENDED)
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {names}, but got {dataset!r}")
    return RECOMMENDED[dataset]
