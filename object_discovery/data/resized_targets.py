"""Dataset with label maps at the resolution of an evaluation protocol, independent of the image resolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from object_discovery.data.dataset import SceneDataset, StoredScenes, resize_batch
from object_discovery.data.readers.photographs import PhotographSource
from object_discovery.discovery import Batch

_RESIZED = ("mask", "classes")


class ResizedTargetDataset(SceneDataset):
    """Scenes with label maps `mask` and `classes`, `(B, S, S)`, at another resolution than the images.

    Those of photographs are computed from the uncropped maps, see `PhotographSource.evaluation_maps`. Others are
    cropped like the images, and resized by nearest-neighbour interpolation.

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
        others = {key: value for key, value in batch.items() if key not in _RESIZED}
        return {**others, **self._maps(indices, {key: batch[key] for key in _RESIZED if key in batch})}

    def _maps(self, indices: npt.NDArray[np.int64], maps: Batch) -> Batch:
        scenes, size = self.scenes, self.mask_size
        if not isinstance(scenes, StoredScenes):
            return resize_batch(maps, size)
        numbers = [int(number) for number in scenes.indices[indices]]
        if isinstance(scenes.source, PhotographSource):
            resized = [scenes.source.evaluation_maps(number, size) for number in numbers]
            keys = [key for key in resized[0] if key in maps]
            return {key: torch.from_numpy(np.stack([scene[key] for scene in resized])) for key in keys}
        cropped = [scenes.cropped(number)[1] for number in numbers]
        single = [resize_batch({key: torch.from_numpy(scene[key])[None] for key in maps}, size) for scene in cropped]
        return {key: torch.cat([scene[key] for scene in single]) for key in maps}
