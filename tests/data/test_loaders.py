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


def drawn(size: int) -> GeneratedScenes:
    return GeneratedScenes(generate_tetrominoes, start=0, size=size, resolution=35)


def hashes(batches: Iterator[Batch]) -> list[bytes]:
    return [mask.numpy().tobytes() for batch in batches for mask in batch["mask"]]


@pytest.mark.parametrize("size", [7, 8, 13, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_processes_share_scenes_out_exactly_and_in_step(size: int, world: int, batch_size: int) -> None:
    ranks = [list(EvalBatches(drawn(size), batch_size, rank, world)) for rank in range(world)]
    assert sorted(scene for batches in ranks for batch in batches for scene in batch) == list(range(size))
    assert len({len(batches) for batches in ranks}) == 1
    largest = batch_size if size % world == 0 else max(2, batch_size)
    assert all(1 <= len(batch) <= largest for batches in ranks for batch in batches)
    assert len(EvalBatches(drawn(size), batch_size, 0, world)) == len(ranks[0])


def test_fewer_scenes_than_processes_are_refused() -> None:
    with pytest.raises(UserError, match=r"one scene for each of 3 processes, but got 2 in all.*`val_size`"):
        EvalBatches(drawn(2), 4, rank=0, world=3)


def test_lightning_leaves_the_samplers_alone() -> None:
    # it replaces the sampler of a distributed run unless it is a DistributedSampler
    for train in (True, False):
        assert isinstance(make_loader(drawn(8), train=train, batch_size=4, num_workers=0).sampler, DistributedSampler)


def test_training_is_shuffled_anew_each_epoch_and_drops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    loader = make_loader(drawn(10), train=True, batch_size=4, num_workers=0)
    first, again = hashes(iter(loader)), hashes(iter(loader))
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    second = hashes(iter(loader))
    in_order = [generate_tetrominoes([scene])[1].tobytes() for scene in range(10)]
    assert len(loader) == 2
    assert first == again
    assert first != second
    assert len(set(first)) == 8
    assert set(first) <= set(in_order)
    assert first != in_order[:8]
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert hashes(iter(make_loader(drawn(10), train=True, batch_size=4, num_workers=0))) != first


def test_a_training_set_smaller_than_a_batch_is_used_whole() -> None:
    loader = make_loader(drawn(3), train=True, batch_size=8, num_workers=0)
    assert [len(batch["image"]) for batch in loader] == [3]


def test_an_evaluation_set_smaller_than_a_batch_is_used_whole() -> None:
    loader = make_loader(drawn(3), train=False, batch_size=8, num_workers=0)
    assert [len(batch["image"]) for batch in loader] == [3]


@pytest.mark.parametrize("train", [True, False])
def test_distributed_processes_load_disjoint_shares(monkeypatch: pytest.MonkeyPatch, train: bool) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        shares.append(hashes(iter(make_loader(drawn(16), train=train, batch_size=4, num_workers=0))))
    assert len(shares[0]) == len(shares[1]) == 8
    assert len(set(shares[0]) | set(shares[1])) == 16


def loader_of(size: int, num_workers: int = 0, epoch: int = 0) -> SceneLoader:
    loader = make_loader(drawn(size), train=True, batch_size=4, num_workers=num_workers)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return loader


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_an_epoch_is_continued_where_it_was_left(done: int, num_workers: int) -> None:
    expected, following = hashes(iter(loader_of(22))), hashes(iter(loader_of(22, epoch=1)))
    left = loader_of(22, num_workers)
    begun = iter(left)
    for _ in range(done):
        next(begun)
    assert left.state_dict() == {"batches": done}
    again = loader_of(22, num_workers)
    again.load_state_dict(left.state_dict())
    assert again.state_dict() == {"batches": done % 5}
    if done < 5:
        assert hashes(iter(again)) == expected[4 * done :]
        assert again.state_dict() == {"batches": 5}
        again.sampler.set_epoch(1)  # type: ignore[attr-defined]
    else:  # the epoch was over
        again.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert hashes(iter(again)) == following


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_that_is_not_asked_for_its_end_is_followed_by_a_whole_one(num_workers: int) -> None:
    # Lightning knows the length and takes no more batches than that, so that the iterator never ends
    loader, expected = loader_of(12, num_workers), hashes(iter(loader_of(12)))
    for _ in range(3):
        begun = iter(loader)
        assert hashes(next(begun) for _ in range(3)) == expected
    next(iter(loader))  # left early
    assert hashes(iter(loader)) == expected


def test_distributed_processes_continue_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        whole, rest = loader_of(32), loader_of(32)
        rest.load_state_dict({"batches": 1})
        assert hashes(iter(rest)) == hashes(iter(whole))[4:]


def test_loading_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for train in (True, False):
        next(iter(make_loader(drawn(8), train=train, batch_size=4, num_workers=0)))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("train", [True, False])
def test_batches_do_not_depend_on_the_workers(train: bool) -> None:
    expected = hashes(iter(make_loader(drawn(40), train=train, batch_size=8, num_workers=0)))
    for num_workers in (1, 2):
        loader = make_loader(drawn(40), train=train, batch_size=8, num_workers=num_workers)
        assert hashes(iter(loader)) == expected
        assert hashes(iter(loader)) == expected  # the workers are kept


def test_spawned_workers_load_the_same(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3, 2, 3, 1])
    write_published(tmp_path / "scenes.h5", images, labels, entities=4)
    file = SceneFile(tmp_path / "scenes.h5")
    file.image(0)  # an open file must survive too
    scenes = StoredScenes(file, np.arange(6), crop=None, resolution=35)
    loader = make_loader(scenes, train=False, batch_size=2, num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert hashes(iter(loader)) == [label_map.tobytes() for label_map in labels]


@pytest.mark.parametrize(("cores", "expected"), [(None, 0), (1, 0), (2, 0), (3, 1), (6, 3), (64, 8)])
def test_workers_are_half_the_cores_up_to_eight_and_none_on_two(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, expected: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert default_num_workers() == expected


def test_workers_are_chosen_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert make_loader(drawn(4), train=True, batch_size=2).num_workers == 3
