"""Data loaders of all splits, for one process or several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler

from object_discovery.data.dataset import SceneDataset
from object_discovery.discovery import Batch
from object_discovery.errors import UserError


class EvalBatches(DistributedSampler[list[int]]):
    """Distributed batch sampler that yields each scene exactly once.

    Process `r` of `W` takes scenes r, r + W, r + 2W, ... No scene is repeated as padding, unlike in
    `DistributedSampler`, so that the scores equal those of one process. All processes have the same number of batches,
    which differ by at most one scene, so that collective operations within a batch stay synchronised. Lightning does
    not replace a `DistributedSampler`.

    Args:
        scenes: The split.
        batch_size: Maximum batch size; with 1, some processes may have a batch of 2 to stay synchronised.
        rank: Rank of this process.
        world: Number of processes.

    Raises:
        UserError: If there are fewer scenes than processes.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
        >>> scenes = GeneratedScenes(generate_tetrominoes, start=0, size=7, resolution=35)
        >>> list(EvalBatches(scenes, batch_size=3, rank=0, world=2))
        [[0, 2], [4, 6]]
        >>> list(EvalBatches(scenes, batch_size=3, rank=1, world=2))
        [[1, 3], [5]]
    """

    def __init__(self, scenes: SceneDataset, batch_size: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(scenes, num_replicas=world, rank=rank, shuffle=False)
        if len(scenes) < world:
            raise UserError(
                f"Expected at least one scene for each of {world} processes, but got {len(scenes)} in all: "
                "use more scenes (`val_size`, `test_size`) or fewer `devices`"
            )
        self._indices = range(rank, len(scenes), world)
        largest = -(-len(scenes) // world)
        self._batches = min(-(-largest // batch_size), len(scenes) // world)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        return (batch.tolist() for batch in np.array_split(np.array(self._indices), self._batches))

    def __len__(self) -> int:
        return self._batches


class TrainScenes(DistributedSampler[int]):
    """Shuffling distributed sampler that a resumed run continues within an epoch.

    Of scenes with several views it samples one, by seed, epoch and rank.

    Attributes:
        start: Number of scenes of this process to skip in the next epoch.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        return islice(self._views(super().__iter__()), start, None)

    def _views(self, order: Iterator[int]) -> Iterator[int]:
        scenes = cast(SceneDataset, self.dataset)
        if scenes.views == 1:
            return order
        chosen = np.random.default_rng((self.seed, self.epoch, self.rank)).integers(0, scenes.views, len(self))
        return (index + len(scenes) * int(view) for index, view in zip(order, chosen, strict=True))


class SceneLoader(DataLoader[Batch]):
    """Stateful data loader: Lightning saves its position within the epoch in checkpoints.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
        >>> scenes = GeneratedScenes(generate_tetrominoes, start=0, size=8, resolution=35)
        >>> loader = make_loader(scenes, train=True, batch_size=2, num_workers=0)
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> again = make_loader(scenes, train=True, batch_size=2, num_workers=0)
        >>> again.load_state_dict(loader.state_dict())
        >>> bool((next(iter(again))["image"] == next(batches)["image"]).all())
        True
    """

    _start = _done = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        start, self._start = self._start, 0
        self._done = start
        if isinstance(self.sampler, TrainScenes):
            self.sampler.start = start * (self.batch_size or 1)
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches done in this epoch."""
        return {"batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of another loader; at its end, start a new epoch."""
        self._start = self._done = state["batches"] % len(self)


def default_num_workers() -> int:
    """Return the number of loading processes to use: half the cores, at most eight; none on two cores or fewer.

    Example:
        >>> 0 <= default_num_workers() <= 8
        True
    """
    cores = os.cpu_count() or 1
    return min(8, cores // 2) if cores > 2 else 0


def make_loader(scenes: SceneDataset, *, train: bool, batch_size: int, num_workers: int | None = None) -> SceneLoader:
    """Build the data loader of a split; every process of a distributed run loads its share.

    Training scenes are shuffled in each epoch by the seed of Lightning's `seed_everything`, and the last incomplete
    batch is dropped. Lightning sets the epoch; in your own loop call `loader.sampler.set_epoch(epoch)`. The other
    splits are loaded in order, each scene once, see `EvalBatches`.

    Args:
        scenes: The split.
        train: Shuffle, and drop the last incomplete batch (unless it is the only one).
        batch_size: Scenes per batch and process.
        num_workers: Loading processes. None: see `default_num_workers`.

    Returns:
        A loader of `image` uint8 `(B, 3, H, W)` and `mask` uint8 `(B, H, W)`.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
        >>> scenes = GeneratedScenes(generate_tetrominoes, start=0, size=10, resolution=35)
        >>> [len(batch["image"]) for batch in make_loader(scenes, train=True, batch_size=4, num_workers=0)]
        [4, 4]
        >>> [len(batch["image"]) for batch in make_loader(scenes, train=False, batch_size=4, num_workers=0)]
        [4, 3, 3]
    """
    running = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if running else (0, 1)
    num_workers = default_num_workers() if num_workers is None else num_workers
    batching: dict[str, Any]
    if train:
        full = len(scenes) >= world * batch_size
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        sampler = TrainScenes(scenes, world, rank, shuffle=True, seed=seed, drop_last=full)
        batching = {"sampler": sampler, "batch_size": batch_size, "drop_last": full}
    else:
        batching = {"sampler": EvalBatches(scenes, batch_size, rank, world), "batch_size": None}
    return SceneLoader(
        scenes,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_identity,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),  # leaves the global random state to the model
        **batching,
    )


def _identity(batch: Batch) -> Batch:
    """Return a batch that the dataset has collated already; a module-level function, so that it can be pickled."""
    return batch
