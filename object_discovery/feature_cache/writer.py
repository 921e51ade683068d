"""Compute the features of a dataset once, shard by shard, on all processes of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, TextColumn
from torch import Tensor
from torch.utils.data import DataLoader

from object_discovery.data.dataset import GeneratedScenes, SceneDataset, StoredScenes
from object_discovery.data.loaders import default_num_workers
from object_discovery.discovery import Batch
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.feature_cache.cache import FeatureCache
from object_discovery.feature_cache.shard import Shard, write_shard
from object_discovery.files import file_lock, lock_path
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.progress import progress_bar

_AT_ONCE = 8  # shards that a process takes for itself, but no more than a quarter of what is left
_WAIT = 0.2  # seconds
_SMALL = 8  # height and width of a thumbnail


class WholeSource(StoredScenes):
    """All images of a source, without their label maps."""

    def __init__(self, scenes: StoredScenes) -> None:
        indices = np.arange(len(scenes.source))
        super().__init__(scenes.source, indices, scenes.crop, scenes.resolution, scenes.antialias)

    def cropped(self, number: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
        """Read and crop an image."""
        image = self.source.image(number)
        top, left, height, width = self.crop or (0, 0, *image.shape[:2])
        return image[top : top + height, left : left + width], {}


def every_image(scenes: SceneDataset, shard_size: int) -> SceneDataset:
    """Return all images that a split is chosen from; generated ones up to the end of a shard."""
    if isinstance(scenes, GeneratedScenes):
        size = -(-len(scenes) // shard_size) * shard_size
        return GeneratedScenes(scenes.generate, scenes.start, size, scenes.resolution)
    assert isinstance(scenes, StoredScenes)
    return WholeSource(scenes)


def thumbnails(images: Tensor) -> NDArray[np.uint8]:
    """Shrink images `(B, 3, H, W)` of bytes to 8 x 8 pixels, by which changed images are noticed."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), _SMALL)
    return small.round().byte().numpy()


def write_features(
    encoder: FrozenEncoder,
    scenes: SceneDataset,
    numbers: NDArray[np.int64],
    cache: FeatureCache,
    *,
    views: int = 1,
    batch_size: int = 32,
    num_workers: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> None:
    """Compute and write what is missing of the features of some scenes.

    Several processes share the work: each takes shards that no other works on, and returns when all are there. A
    process that is killed leaves nothing but whole shards. With the same settings the files are the same, however
    often the work was interrupted.

    Args:
        encoder: The encoder; it comes back to the device it was on.
        scenes: All images, see `every_image`.
        numbers: The scenes that are needed; all scenes of their shards are computed.
        cache: Where the features go.
        views: 2 to add the features of mirrored images.
        batch_size: Images that go through the encoder together.
        num_workers: Loading processes. None: see `default_num_workers`.
        device: Where to compute.
        progress: Show a progress bar on a terminal.

    Raises:
        UserError: If features are too large for float16.
        OSError: If nothing can be written.
    """
    writer = _Writer(encoder, scenes, cache, views, batch_size, num_workers, torch.device(device))
    wanted = cache.shards_of(numbers)
    before = encoder.mean.device
    encoder.to(device)
    try:
        with progress_bar(MofNCompleteColumn(), TextColumn("shards"), enabled=progress) as bar:
            task = bar.add_task(f"features of {cache.key['dataset']}", total=len(wanted))
            while left := [shard for shard in wanted if not writer.is_whole(shard)]:
                bar.update(task, completed=len(wanted) - len(left))
                for _ in writer.write_some(left):
                    bar.advance(task)
        _remove_locks(cache, wanted)
        _remove_leftovers(cache.folder / "key.json")
    finally:
        encoder.to(before)


class _Writer:
    """Writes shards that no other process works on."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        scenes: SceneDataset,
        cache: FeatureCache,
        views: int,
        batch_size: int,
        num_workers: int | None,
        device: torch.device,
    ) -> None:
        self.encoder, self.scenes, self.cache, self.views = encoder, scenes, cache, views
        self.batch_size, self.device = batch_size, device
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self._whole: set[Path] = set()

    def is_whole(self, shard: int) -> bool:
        """Whether all views of a shard are there, undamaged."""
        return not self._missing(shard)

    def write_some(self, shards: list[int]) -> Iterator[int]:
        """Take a few shards and write them; wait a little if others have taken all of them."""
        with ExitStack() as locks:
            taken: list[int] = []
            most = min(_AT_ONCE, -(-len(shards) // 4))
            for shard in shards:
                if len(taken) < most and locks.enter_context(file_lock(self.cache.path(shard), wait=False)):
                    taken.append(shard)
            taken = [shard for shard in taken if not self.is_whole(shard)]
            if not taken:
                time.sleep(_WAIT)
            yield from self._write(taken)

    def _missing(self, shard: int) -> list[int]:
        missing = []
        for view in range(self.views):
            path = self.cache.path(shard, view)
            if path not in self._whole:
                try:
                    Shard.open(path, self.cache.digest, shard * self.cache.shard_size, view)
                    self._whole.add(path)
                except (CorruptFileError, DatasetNotFoundError):
                    missing.append(view)
        return missing

    def _write(self, shards: list[int]) -> Iterator[int]:
        """Write shards, whose images are loaded ahead."""
        ranges = {shard: self._batches(shard) for shard in shards}
        loader: DataLoader[Batch] = DataLoader(
            self.scenes,
            batch_sampler=[batch for batches in ranges.values() for batch in batches],
            num_workers=min(self.num_workers, sum(map(len, ranges.values()))),
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            pin_memory=self.device.type == "cuda",
        )
        images = (batch["image"] for batch in loader)
        for shard, batches in ranges.items():
            self._write_shard(shard, (next(images) for _ in batches))
            yield shard

    def _batches(self, shard: int) -> list[list[int]]:
        first = shard * self.cache.shard_size
        end = min(first + self.cache.shard_size, len(self.scenes))
        return [list(range(i, min(i + self.batch_size, end))) for i in range(first, end, self.batch_size)]

    def _write_shard(self, shard: int, batches: Iterator[Tensor]) -> None:
        small: list[NDArray[np.uint8]] = []
        features: dict[int, list[NDArray[np.float16]]] = {view: [] for view in self._missing(shard)}
        for images in batches:
            small.append(thumbnails(images))
            images = images.to(self.device, non_blocking=True).float() / 255
            for view, parts in features.items():
                parts.append(self._encode(images.flip(-1) if view else images))
        for view, parts in features.items():
            path = self.cache.path(shard, view)
            _remove_leftovers(path)
            first = shard * self.cache.shard_size
            write_shard(path, np.concatenate(parts), np.concatenate(small), self.cache.digest, first, view)

    @torch.no_grad()
    def _encode(self, images: Tensor) -> NDArray[np.float16]:
        features = self.encoder(images).half()
        if not bool(features.isfinite().all()):
            raise UserError(
                f"The features of {self.cache.key.get('encoder')} do not fit into float16: do not cache them"
            )
        kept: NDArray[np.float16] = features.cpu().numpy()
        return kept


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of a shard that this process has taken."""
    for left in path.parent.glob(f".{path.name}.*{path.suffix}"):
        left.unlink(missing_ok=True)


def _remove_locks(cache: FeatureCache, shards: list[int]) -> None:
    """Remove the locks that killed processes left of shards that are whole by now."""
    for shard in shards:
        with suppress(OSError):
            if lock_path(cache.path(shard)).exists():
                with file_lock(cache.path(shard), wait=False):
                    pass
