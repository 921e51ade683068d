"""The datasets of one split: scenes drawn by the library, and scenes read from the disk."""

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
Draw: TypeAlias = Callable[
    [npt.NDArray[np.int64]], Arrays | tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], dict[str, npt.NDArray[Any]]]
]
"""Draws the scenes of these numbers; besides images and label maps may come targets as `SceneSource` has."""


def resize_batch(batch: Batch, resolution: int, antialias: bool = False) -> Batch:
    """Bring images and label maps to one size.

    Args:
        batch: Images uint8 `(B, C, H, W)` and label maps uint8 `(B, H, W)`.
        resolution: Height and width to bring them to; other shapes become square.
        antialias: Average over all pixels that a smaller image's pixel covers, as PIL does.

    Returns:
        The batch with images resized bilinearly, to within one grey level, and maps to the nearest pixel; unchanged
        if they have the size.

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
            # On bytes: within one grey level of the floating-point result, in a fraction of the time.
            resized[key] = F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=antialias)
    return resized


class SceneDataset(Dataset[Batch]):
    """Scenes at one resolution, fetched one by one or a whole batch at a time.

    `scenes[3]` is one scene, `image` `(3, H, W)` and `mask` `(H, W)`; `scenes[[3, 5]]` is a batch of two. A
    `DataLoader` asks for whole batches, so its `collate_fn` must hand them on as they are.

    Args:
        size: Number of scenes.
        resolution: Height and width of the images in pixels. Scenes of another size are resized, see `resize`.
    """

    views: int = 1
    """Views of each scene; training takes one at random. Index `n + v * len(scenes)` is view v of scene n."""

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
        """Draw or read these scenes of the split."""


def _tensors(images: npt.NDArray[np.uint8], maps: dict[str, npt.NDArray[np.uint8]]) -> Batch:
    """Turn images `(B, H, W, 3)` and maps `(B, H, W)` into a batch."""
    image = torch.from_numpy(images).permute(0, 3, 1, 2)
    return {"image": image, **{key: torch.from_numpy(values) for key, values in maps.items()}}


class GeneratedScenes(SceneDataset):
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

    def _batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        images, masks, *targets = self.draw(self.start + indices)
        batch = resize_batch(_tensors(images, {"mask": masks}), self.resolution)
        known = {key: torch.from_numpy(values) for held in targets for key, values in held.items()}
        return {**batch, "image": batch["image"].contiguous(), **known}


class StoredScenes(SceneDataset):
    """Scenes on the disk, cropped and resized when they are asked for.

    Args:
        source: The scenes.
        indices: Numbers of the scenes in the source, `(N,)`.
        crop: What to keep of each image and label map. None: all.
        resolution: Height and width of the images in pixels.
        antialias: How images are resized, see `resize`.
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
            maps = {key: np.stack([held[key] for _, held in scenes]) for key in scenes[0][1]}
            batch = self._resized(np.stack([image for image, _ in scenes]), maps)
        else:  # each size by itself
            single = [self._resized(image[None], {key: m[None] for key, m in held.items()}) for image, held in scenes]
            batch = {key: torch.cat([scene[key] for scene in single]) for key in single[0]}
        batch["image"] = batch["image"].contiguous()
        return {**batch, **default_collate([self.source.targets(number) for number in numbers])}

    def cropped(self, number: int) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.uint8]]]:
        """Read the image and the label maps of a scene of the source, and crop them."""
        return self.source.scene(number, self.crop)

    def _resized(self, images: npt.NDArray[np.uint8], maps: dict[str, npt.NDArray[np.uint8]]) -> Batch:
        return resize_batch(_tensors(images, maps), self.resolution, self.antialias)
