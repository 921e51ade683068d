"""What a dataset on the disk is to the rest of the library: scenes that can be counted and read one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.geometry import Crop, crop_array
from object_discovery.data.label_maps import count_labels


class SceneSource(ABC):
    """Scenes on the disk.

    A source is picklable and opens its files when first asked, in each process by itself. Whatever is wrong with a
    file is a `CorruptFileError` or a `DatasetNotFoundError` that names the file.
    """

    layout: str = "files"
    """How the scenes are stored, in a word or two for the user."""

    @property
    def variant(self) -> str | None:
        """Variant of the dataset that the files say they hold, or None if they do not say."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of scenes."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """Read the image of a scene: colours `(H, W, 3)`; the size may differ from scene to scene."""

    def image_files(self) -> list[Path]:
        """Return the files that images are read from, by which it is told whether they have changed."""
        return []

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label maps of a scene `(H, W)`, of the same size as its image.

        The key `mask` numbers the objects: 0 is the background, 255 is ignored. Others are, in the same convention,
        `classes` (a map of classes) and `entities` (objects and every other part of the scene).
        """
        return {}

    def scene(self, index: int, crop: Crop | None = None) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        """Read a part of an image and of its label maps (None: all); faster than all of them, where it can be."""
        return crop_array(self.image(index), crop), {
            key: crop_array(values, crop) for key, values in self.maps(index).items()
        }

    def targets(self, index: int) -> dict[str, NDArray[Any]]:
        """Read what else is known of a scene, of the same shape for all scenes, such as `objects` `(O, 19)`."""
        return {}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene that have a pixel in a part of the frame (None: in the frame), `(N,)`."""
        return np.array(
            [count_labels(crop_array(self.maps(index)["mask"], crop)) for index in range(len(self))], np.int64
        )
