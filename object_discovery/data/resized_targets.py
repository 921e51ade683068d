"""A split whose label maps have the size at which a protocol scores them, whatever the size of the images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from object_discovery.data.dataset import SceneDataset, StoredScenes, resize_batch
from object_discovery.data.readers.photographs import PhotographSource
from object_discovery.discovery import Batch

_SCORED = ("mask", "classes")


class ResizedTargetDataset(SceneDataset):
    """Scenes with label maps `mask` and `classes` `(B, S, S)` of a size S of their own.

    Those of photographs are made from the whole map, see `PhotographSource.evaluation_maps`. Others are cropped as the
    images and resized to the nearest pixel.

    Args:
        scenes: The split.
        size: Height and width S of the label maps.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
        >>> scenes = ResizedTargetDataset(GeneratedScenes(generate_tetrominoes, start=0, size=7, resolution=35), 70)
        >>> {key: tuple(value.shape) for key, value in scenes[0].items()}
        {'image': (3, 35, 35), 'mask': (70, 70)}
    """

    def __init__(self, scenes: SceneDataset, size: int) -> None:
        super().__init__(len(scenes), scenes.resolution)
        self.scenes = scenes
        self.mask_size = size

    def _batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        batch = self.scenes[indices.tolist()]
        others = {key: value for key, value in batch.items() if key not in _SCORED}
        return {**others, **self._maps(indices, {key: batch[key] for key in _SCORED if key in batch})}

    def _maps(self, indices: npt.NDArray[np.int64], maps: Batch) -> Batch:
        scenes, size = self.scenes, self.mask_size
        if not isinstance(scenes, StoredScenes):
            return resize_batch(maps, size)
        numbers = [int(number) for number in scenes.indices[indices]]
        if isinstance(scenes.source, PhotographSource):
            held = [scenes.source.evaluation_maps(number, size) for number in numbers]
            return {key: torch.from_numpy(np.stack([one[key] for one in held])) for key in held[0] if key in maps}
        cropped = [scenes.cropped(number)[1] for number in numbers]
        single = [resize_batch({key: torch.from_numpy(one[key])[None] for key in maps}, size) for one in cropped]
        return {key: torch.cat([one[key] for one in single]) for key in maps}
