"""A split whose scenes come with cached features."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from object_discovery.data.dataset import SceneDataset, StoredScenes
from object_discovery.discovery import Batch
from object_discovery.feature_cache.cache import FeatureCache

_PIXELS = ("image", "mask", "classes", "entities")


def scene_numbers(scenes: SceneDataset) -> NDArray[np.int64]:
    """Return the numbers of the scenes of a split, by which a cache knows them, `(len(scenes),)`."""
    return scenes.indices if isinstance(scenes, StoredScenes) else np.arange(len(scenes))


class CachedFeatureDataset(SceneDataset):
    """Scenes with `features` float16 `(B, N, F)`, read from a cache.

    With two views each scene comes as it is or mirrored, its image, label maps and features alike.

    Args:
        scenes: The split.
        cache: The features.
        numbers: Number of each scene in the cache, `(len(scenes),)`.
        views: 2 if training also samples the mirrored views of the cache.
        images: Read images and label maps too. False: `image` has no pixels, `(B, 3, 0, 0)`, and nothing but the
            features is read.
    """

    def __init__(
        self,
        scenes: SceneDataset,
        cache: FeatureCache,
        numbers: NDArray[np.int64],
        views: int = 1,
        images: bool = True,
    ) -> None:
        super().__init__(len(scenes), scenes.resolution)
        self.scenes, self.cache, self.numbers = scenes, cache, numbers
        self.views, self.images = views, images

    def _batch(self, indices: NDArray[np.int64]) -> Batch:
        views, indices = np.divmod(indices, self.size)
        features = self.cache.read(self.numbers[indices].tolist(), views.tolist())
        if not self.images:
            return {"image": torch.empty(len(indices), 3, 0, 0, dtype=torch.uint8), "features": features}
        batch = self.scenes[indices.tolist()]
        if views.any():
            mirrored = torch.from_numpy(views == 1)
            for key in batch.keys() & set(_PIXELS):
                which = mirrored.view(-1, *[1] * (batch[key].ndim - 1))
                batch[key] = torch.where(which, batch[key].flip(-1), batch[key])
        return {**batch, "features": features}
