import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from torch.utils.data import DistributedSampler

from object_discovery.data.dataset import GeneratedScenes, StoredScenes
from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
from object_discovery.data.loaders import EvalBatches, SceneLoader, default_num_workers, make_loader
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.discovery import Batch
from object_discovery.errors import UserError
from tests.data.scene_files import make_scenes, write_published


def generated(size: int) -> GeneratedScenes:
    return GeneratedScenes(generate_tetrominoes, start=0, size=size, resolution=35)


def hashes(batches: Iterator[Batch]) -> list[bytes]:
    return [mask.numpy().tobytes() for batch in batches for mask in batch["mask"]]


@pytest.mark.parametrize("size", [7, 8, 13, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_processes_have_disjoint_scenes_and_equal_numbers_of_batches(size: int, world: int, batch_size: int) -> None:
    ranks = [list(EvalBatches(generated(size), batch_size, rank, world)) for rank in range(world)]
    assert sorted(scene for batches in ranks for batch in batches for scene in batch) == list(range(size))
    assert len({len(batches) for batches in ranks}) == 1
    largest = batch_size if size % world == 0 else max(2, batch_size)
    assert all(1 <= len(batch) <= largest for batches in ranks for batch in batches)
    assert len(EvalBatches(generated(size), batch_size, 0, world)) == len(ranks[0])


def test_fewer_scenes_than_processes_are_refused() -> None:
    with pytest.raises(UserError, match=r"one scene for each of 3 processes, but got 2 in all.*`val_size`"):
        EvalBatches(generated(2), 4, rank=0, world=3)


def test_samplers_are_distributed_samplers() -> None:
    # Lightning replaces any other sampler in a distributed run
    for train in (True, False):
        assert isinstance(
            make_loader(generated(8), train=train, batch_size=4, num_workers=0).sampler, DistributedSampler
        )


def test_training_is_shuffled_by_seed_and_epoch_and_drops_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    loader = make_loader(generated(10), train=True, batch_size=4, num_workers=0)
    first, repeated = hashes(iter(loader)), hashes(iter(loader))
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    second = hashes(iter(loader))
    in_order = [generate_tetrominoes([scene])[1].tobytes() for scene in range(10)]
    assert len(loader) == 2
    assert first == repeated
    assert first != second
    assert len(set(first)) == 8
    assert set(first) <= set(in_order)
    assert first != in_order[:8]
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert hashes(iter(make_loader(generated(10), train=True, batch_size=4, num_workers=0))) != first


def test_a_training_set_smaller_than_a_batch_is_one_batch() -> None:
    loader = make_loader(generated(3), train=True, batch_size=8, num_workers=0)
    assert [len(batch["image"]) for batch in loader] == [3]


def test_an_evaluation_set_smaller_than_a_batch_is_one_batch() -> None:
    loader = make_loader(generated(3), train=False, batch_size=8, num_workers=0)
    assert [len(batch["image"]) for batch in loader] == [3]


@pytest.mark.parametrize("train", [True, False])
def test_distributed_processes_load_disjoint_shares(monkeypatch: pytest.MonkeyPatch, train: bool) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        shares.append(hashes(iter(make_loader(generated(16), train=train, batch_size=4, num_workers=0))))
    assert len(shares[0]) == len(shares[1]) == 8
    assert len(set(shares[0]) | set(shares[1])) == 16


def train_loader(size: int, num_workers: int = 0, epoch: int = 0) -> SceneLoader:
    loader = make_loader(generated(size), train=True, batch_size=4, num_workers=num_workers)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return loader


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_done", [0, 1, 3, 5])
def test_an_epoch_is_resumed_after_the_batches_done(num_done: int, num_workers: int) -> None:
    expected, following = hashes(iter(train_loader(22))), hashes(iter(train_loader(22, epoch=1)))
    interrupted = train_loader(22, num_workers)
    batches = iter(interrupted)
    for _ in range(num_done):
        next(batches)
    assert interrupted.state_dict() == {"batches": num_done}
    resumed = train_loader(22, num_workers)
    resumed.load_state_dict(interrupted.state_dict())
    assert resumed.state_dict() == {"batches": num_done % 5}
    if num_done < 5:
        assert hashes(iter(resumed)) == expected[4 * num_done :]
        assert resumed.state_dict() == {"batches": 5}
        resumed.sampler.set_epoch(1)  # type: ignore[attr-defined]
    else:  # the epoch was complete
        resumed.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert hashes(iter(resumed)) == following


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_whose_iterator_is_not_exhausted_is_followed_by_a_complete_one(num_workers: int) -> None:
    # Lightning takes as many batches as the loader's length, so that the iterator is never exhausted
    loader, expected = train_loader(12, num_workers), hashes(iter(train_loader(12)))
    for _ in range(3):
        batches = iter(loader)
        assert hashes(next(batches) for _ in range(3)) == expected
    next(iter(loader))  # not continued
    assert hashes(iter(loader)) == expected


def test_distributed_processes_resume_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        complete, resumed = train_loader(32), train_loader(32)
        resumed.load_state_dict({"batches": 1})
        assert hashes(iter(resumed)) == hashes(iter(complete))[4:]


def test_loading_does_not_use_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for train in (True, False):
        next(iter(make_loader(generated(8), train=train, batch_size=4, num_workers=0)))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("train", [True, False])
def test_batches_do_not_depend_on_the_number_of_workers(train: bool) -> None:
    expected = hashes(iter(make_loader(generated(40), train=train, batch_size=8, num_workers=0)))
    for num_workers in (1, 2):
        loader = make_loader(generated(40), train=train, batch_size=8, num_workers=num_workers)
        assert hashes(iter(loader)) == expected
        assert hashes(iter(loader)) == expected  # with persistent workers


def test_spawned_workers_load_the_same_batches(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3, 2, 3, 1])
    write_published(tmp_path / "scenes.h5", images, labels, entities=4)
    file = SceneFile(tmp_path / "scenes.h5")
    file.image(0)  # an open file must be picklable, too
    scenes = StoredScenes(file, np.arange(6), crop=None, resolution=35)
    loader = make_loader(scenes, train=False, batch_size=2, num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert hashes(iter(loader)) == [label_map.tobytes() for label_map in labels]


@pytest.mark.parametrize(("cores", "expected"), [(None, 0), (1, 0), (2, 0), (3, 1), (6, 3), (64, 8)])
def test_default_workers_are_half_the_cores_up_to_eight_and_none_on_two(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, expected: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert default_num_workers() == expected


def test_num_workers_none_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert make_loader(generated(4), train=True, batch_size=2).num_workers == 3
