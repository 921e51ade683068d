"""The datasets of one split: scenes drawn by the library, and scenes read from an HDF5 file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from object_discovery.data.hdf5 import SceneFile
from object_discovery.data.scene_sets import Crop

Batch: TypeAlias = dict[str, Tensor]
"""`image` uint8 `(B, 3, H, W)` and `mask` uint8 `(B, H, W)`, a label map: 0 background, 255 ignored."""
Arrays: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Images `(B, H, W, 3)` and label maps `(B, H, W)`."""
Draw: TypeAlias = Callable[[npt.NDArray[np.int64]], Arrays]
"""Draws the scenes of these numbers."""


class SceneDataset(Dataset[Batch]):
    """Scenes at one resolution, fetched one by one or a whole batch at a time.

    `scenes[3]` is one scene, `image` `(3, H, W)` and `mask` `(H, W)`; `scenes[[3, 5]]` is a batch of two. A
    `DataLoader` asks for whole batches, so its `collate_fn` must hand them on as they are.

    Args:
        size: Number of scenes.
        resolution: Height and width of the images in pixels. Scenes of another size are resized: images
            bilinearly without antialiasing, masks to the nearest pixel; other shapes become square.
    """

    def __init__(self, size: int, resolution: int) -> None:
        self.size = size
        self.resolution = resolution

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | Sequence[int]) -> Batch:
        if isinstance(index, Sequence):
            return self.__getitems__(index)
        if not -self.size <= index < self.size:
            raise IndexError(f"Expected argument `index` to be below {self.size}, but got {index}")
        return {key: value[0] for key, value in self.__getitems__([index % self.size]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images, masks = self._arrays(np.asarray(indices, dtype=np.int64))
        image, mask = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)
        size = (self.resolution, self.resolution)
        if mask.shape[1:] != size:
            image = F.interpolate(image.float(), size, mode="bilinear", align_corners=False).round().byte()
            mask = F.interpolate(mask[:, None], size, mode="nearest-exact")[:, 0]
        return {"image": image.contiguous(), "mask": mask}

    @abstractmethod
    def _arrays(self, indices: npt.NDArray[np.int64]) -> Arrays:
        """Draw or read these scenes of the split, all of one size."""


class DrawnScenes(SceneDataset):
    """Scenes drawn when they are asked for.

    Args:
        draw: Draws a batch; must be picklable, so that loading processes can be spawned.
        start: Number of the first scene.
        size: Number of scenes.
        resolution: Height and width of the images in pixels.
    """

    def __init__(self, draw: Draw, start: int, size: int, resolution: int) -> None:
        super().__init__(size, resolution)
        self.draw = draw
        self.start = start

    def _arrays(self, indices: npt.NDArray[np.int64]) -> Arrays:
        return self.draw(self.start + indices)


class FileScenes(SceneDataset):
    """Scenes of an HDF5 file, cropped and resized when they are asked for.

    Args:
        file: The file, whose scenes must be of one size.
        indices: Numbers of the scenes in the file, `(N,)`.
        crop: What to keep of each image and mask. None: all.
        resolution: Height and width of the images in pixels.
    """

    def __init__(self, file: SceneFile, indices: npt.NDArray[np.int64], crop: Crop | None, resolution: int) -> None:
        super().__init__(len(indices), resolution)
        self.file = file
        self.indices = indices
        self.crop = crop

    def _arrays(self, indices: npt.NDArray[np.int64]) -> Arrays:
        numbers = [int(number) for number in self.indices[indices]]
        masks = [self.file.mask(number) for number in numbers]
        top, left, height, width = self.crop or (0, 0, *masks[0].shape)
        rows, columns = slice(top, top + height), slice(left, left + width)
        images = np.stack([self.file.image(number)[rows, columns] for number in numbers])
        return images, np.stack([mask[rows, columns] for mask in masks])
