"""Interface of datasets on disk: images, label maps and targets by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, crop_array
from object_discovery.data.label_maps import count_labels


class SceneSource(ABC):
    """Images, label maps and targets of N scenes on disk.

    A source is picklable and opens its files lazily in each process. Missing and damaged files raise a
    `DatasetNotFoundError` or a `CorruptFileError` that names the file.
    """

    layout: str = "files"
    """How the scenes are stored, for descriptions."""

    @property
    def variant(self) -> str | None:
        """Variant of the dataset according to the files; None if they do not state it."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of scenes."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image, RGB uint8 `(H, W, 3)`; sizes may differ between scenes."""

    def image_files(self) -> list[Path]:
        """Return the files that images are read from; feature caches depend on their states."""
        return []

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a scene, uint8 `(H, W)`, of the same size as its image.

        The objects are labelled in `mask`: 0 background, 255 ignored. Datasets may have other maps with the same
        convention: `classes` (semantic classes) and `entities` (objects and all other parts of the scene).
        """
        return {}

    def scene(self, index: int, crop: Crop | None = None) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        """Read a crop of an image and of its label maps (None: no crop), without reading the rest where possible."""
        return crop_array(self.image(index), crop), {
            key: crop_array(values, crop) for key, values in self.maps(index).items()
        }

    def targets(self, index: int) -> dict[str, NDArray[Any]]:
        """Read other targets of a scene, such as `objects` `(O, 19)`; shapes are the same for all scenes."""
        return {}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene that have a pixel in a crop (None: in the whole image), `(N,)`."""
        return np.array(
            [count_labels(crop_array(self.maps(index)["mask"], crop)) for index in range(len(self))], np.int64
        )
