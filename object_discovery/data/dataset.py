"""Datasets of one split: generated scenes, and scenes stored on disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, default_collate

from object_discovery.data.geometry import Crop
from object_discovery.data.readers.source import SceneSource
from object_discovery.discovery import Batch

Arrays: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Images `(B, H, W, 3)` and label maps `(B, H, W)`."""
SceneGenerator: TypeAlias = Callable[
    [npt.NDArray[np.int64]], Arrays | tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], dict[str, npt.NDArray[Any]]]
]
"""Function that generates scenes by index: images, label maps, and optionally targets as of `SceneSource`."""


def resize_batch(batch: Batch, resolution: int, antialias: bool = False) -> Batch:
    """Resize images and label maps.

    Args:
        batch: Images uint8 `(B, C, H, W)` and label maps uint8 `(B, H, W)`.
        resolution: Height and width of the result.
        antialias: Resize images with antialiasing, as PIL does.

    Returns:
        The batch, images resized bilinearly (to within one grey level), label maps to the nearest pixel.

    Example:
        >>> resize_batch({"mask": torch.tensor([[[0, 1], [2, 3]]]).byte()}, 4)["mask"][0, 0].tolist()
        [0, 0, 1, 1]
    """
    size = (resolution, resolution)
    resized = {}
    for key, values in batch.items():
        if values.shape[-2:] == size:
            resized[key] = values
        elif values.ndim == 3:
            resized[key] = F.interpolate(values[:, None], size, mode="nearest-exact")[:, 0]
        else:
            # On bytes: within one grey level of the floating-point result, and much faster.
            resized[key] = F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=antialias)
    return resized


class SceneDataset(Dataset[Batch]):
    """Map-style dataset of scenes at one resolution, indexed by one index or by a batch of indices.

    `scenes[3]` is one scene, `image` `(3, H, W)` and `mask` `(H, W)`; `scenes[[3, 5]]` is a batch of two. A
    `DataLoader` fetches whole batches, so that its `collate_fn` must be the identity.

    Args:
        size: Number of scenes.
        resolution: Height and width of the images in pixels. Scenes of another size are resized, see `resize_batch`.
    """

    views: int = 1
    """Number of views of each scene, of which training samples one. Index `n + v * len(scenes)` is view v of scene
    n."""

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
        return self._batch(np.asarray(indices, dtype=np.int64))

    @abstractmethod
    def _batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Generate or read scenes of the split by index."""


def _tensors(images: npt.NDArray[np.uint8], maps: dict[str, npt.NDArray[np.uint8]]) -> Batch:
    """Convert images `(B, H, W, 3)` and maps `(B, H, W)` to a batch."""
    image = torch.from_numpy(images).permute(0, 3, 1, 2)
    return {"image": image, **{key: torch.from_numpy(values) for key, values in maps.items()}}


class GeneratedScenes(SceneDataset):
    """Scenes that are generated on the fly.

    Args:
        generate: Generates a batch; picklable, so that loading processes can be spawned.
        start: Index of the first scene.
        size: Number of scenes.
        resolution: Height and width of the images in pixels.
    """

    def __init__(self, generate: SceneGenerator, start: int, size: int, resolution: int) -> None:
        super().__init__(size, resolution)
        self.generate = generate
        self.start = start

    def _batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        images, masks, *targets = self.generate(self.start + indices)
        batch = resize_batch(_tensors(images, {"mask": masks}), self.resolution)
        tensors = {key: torch.from_numpy(values) for arrays in targets for key, values in arrays.items()}
        return {**batch, "image": batch["image"].contiguous(), **tensors}


class StoredScenes(SceneDataset):
    """Scenes that are stored on disk, cropped and resized when they are read.

    Args:
        source: The scenes.
        indices: Indices of the scenes in the source, `(N,)`.
        crop: Crop of images and label maps. None: none.
        resolution: Height and width of the images in pixels.
        antialias: Resize images with antialiasing, see `resize_batch`.
    """

    def __init__(
        self,
        source: SceneSource,
        indices: npt.NDArray[np.int64],
        crop: Crop | None,
        resolution: int,
        antialias: bool = False,
    ) -> None:
        super().__init__(len(indices), resolution)
        self.source = source
        self.indices = indices
        self.crop = crop
        self.antialias = antialias

    def _batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        numbers = [int(number) for number in self.indices[indices]]
        scenes = [self.cropped(number) for number in numbers]
        if len({image.shape for image, _ in scenes}) == 1:
            stacked = {key: np.stack([maps[key] for _, maps in scenes]) for key in scenes[0][1]}
            batch = self._resized(np.stack([image for image, _ in scenes]), stacked)
        else:  # images of several sizes are resized one by one
            single = [self._resized(image[None], {key: m[None] for key, m in maps.items()}) for image, maps in scenes]
            batch = {key: torch.cat([scene[key] for scene in single]) for key in single[0]}
        batch["image"] = batch["image"].contiguous()
        return {**batch, **default_collate([self.source.targets(number) for number in numbers])}

    def cropped(self, number: int) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.uint8]]]:
        """Read and crop the image and the label maps of a scene of the source."""
        return self.source.scene(number, self.crop)

    def _resized(self, images: npt.NDArray[np.uint8], maps: dict[str, npt.NDArray[np.uint8]]) -> Batch:
        return resize_batch(_tensors(images, maps), self.resolution, self.antialias)
