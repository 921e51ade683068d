"""One loader for every split, on one process or many."""

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
    """Batches that score each scene exactly once, whatever the number of processes.

    Process `r` of `W` takes scenes r, r + W, r + 2W, ... None is repeated to fill up, as `DistributedSampler` does,
    so the scores of many processes are those of one. Each process has the same number of batches, at most one
    scene apart in size, so collective operations within a batch stay in step. Lightning leaves the order of a loader
    alone whose sampler is a `DistributedSampler`.

    Args:
        scenes: The split.
        batch_size: Largest size of a batch; where it is 1, some processes may need a batch of 2 to stay in step.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        UserError: If there are fewer scenes than processes.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import draw_tetrominoes
        >>> scenes = GeneratedScenes(draw_tetrominoes, start=0, size=7, resolution=35)
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
        self._mine = range(rank, len(scenes), world)
        largest = -(-len(scenes) // world)
        self._batches = min(-(-largest // batch_size), len(scenes) // world)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        return (batch.tolist() for batch in np.array_split(np.array(self._mine), self._batches))

    def __len__(self) -> int:
        return self._batches


class TrainScenes(DistributedSampler[int]):
    """The shuffled scenes of an epoch, of which a resumed run leaves out those that it has seen.

    Of scenes with several views one is taken at random, by the seed, the epoch and the process.

    Attributes:
        start: Scenes of this process to leave out of the next epoch that is begun.
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
    """A loader that knows how far into the epoch it is; Lightning keeps its state in checkpoints.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import draw_tetrominoes
        >>> scenes = GeneratedScenes(draw_tetrominoes, start=0, size=8, resolution=35)
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
        """Return how many batches of the epoch are done."""
        return {"batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch where another loader was, or at its beginning if that one was at the end."""
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
    """Load a split in batches; every process of a distributed run gets its own share.

    Training scenes are shuffled anew each epoch by the seed of Lightning's `seed_everything`, and what does not fill
    a batch is left out. Lightning sets the epoch; in a loop of your own call `loader.sampler.set_epoch(epoch)`.
    The other splits come in order, each scene once (see `EvalBatches`).

    Args:
        scenes: The split.
        train: Shuffle, and leave out what does not fill a batch (unless nothing else is there).
        batch_size: Scenes in a batch of one process.
        num_workers: Loading processes. None: see `default_num_workers`.

    Returns:
        A loader of `image` uint8 `(B, 3, H, W)` and `mask` uint8 `(B, H, W)`.

    Example:
        >>> from object_discovery.data.dataset import GeneratedScenes
        >>> from object_discovery.data.datasets.tetrominoes import draw_tetrominoes
        >>> scenes = GeneratedScenes(draw_tetrominoes, start=0, size=10, resolution=35)
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
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),  # leaves the global random numbers to the model
        **batching,
    )


def _as_it_is(batch: Batch) -> Batch:
    """Hand on a batch that the dataset has already put together; a named function, so that it can be pickled."""
    return batch
