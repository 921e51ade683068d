import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from object_discovery.errors import UserError
from object_discovery.feature_cache import writer
from object_discovery.feature_cache.key import scenes_key
from object_discovery.files import file_lock
from object_discovery.layers.frozen_encoder import FrozenEncoder
from tests.feature_cache.tiny_cache import SHARD, SIZE, contents, make_data, make_encoder, write

FORK = multiprocessing.get_context("fork")


def test_features_equal_those_of_the_encoder_in_half_precision(tmp_path: Path) -> None:
    cache = write(tmp_path, views=2)
    data, encoder = make_data(tmp_path), make_encoder()
    images = data.train_set[list(range(len(data.train_set)))]["image"].float() / 255
    numbers = data.train_set.indices.tolist()  # type: ignore[attr-defined]
    for view, inputs in enumerate((images, images.flip(-1))):
        expected = encoder(inputs)
        actual = cache.read(numbers, [view] * len(numbers))
        assert actual.dtype == torch.float16
        torch.testing.assert_close(actual.float(), expected, rtol=2**-10, atol=1e-6)


def test_existing_shards_are_not_computed_again(tmp_path: Path) -> None:
    cache, encoder = write(tmp_path), make_encoder()
    encoder.log = tmp_path / "log"
    before = contents(cache.folder)
    write(tmp_path, encoder=encoder)
    assert not encoder.log.exists()
    cache.path(1).unlink()
    write(tmp_path, views=2, encoder=encoder)  # each view has its own files
    assert encoder.log.read_text() == "x" * (7 + 2)
    after = contents(cache.folder)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {f"{shard:05d}.mirrored.h5" for shard in range(4)}


def run_writer(root: Path, views: int = 2, log: Path | None = None) -> None:
    torch.set_num_threads(1)  # threads do not survive the fork
    encoder = make_encoder()
    encoder.seconds, encoder.log = 0.01, log
    write(root, views=views, encoder=encoder)


def test_killed_writer_can_be_continued(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    expected = contents(write(tmp_path, "whole", views=2).folder)
    generator = np.random.default_rng()  # not seeded: other times in each run
    (folder,) = (tmp_path / "whole").iterdir()
    num_killed, max_seconds = 0, 0.1
    while True:
        process = FORK.Process(target=run_writer, args=(tmp_path,))
        process.start()
        max_seconds *= 1.2
        process.join(float(generator.uniform(0, max_seconds)))
        if process.exitcode is not None:
            break
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        num_killed += 1
        shards = {name: data for name, data in contents(tmp_path / "features" / folder.name).items() if name[0] != "."}
        assert shards.items() <= expected.items()  # a shard is complete or missing
    assert process.exitcode == 0
    assert num_killed > 0
    assert contents(tmp_path / "features" / folder.name) == expected


def test_two_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_AT_ONCE", 1)
    torch.set_num_threads(1)
    expected = contents(write(tmp_path, "whole").folder)
    make_data(tmp_path)
    processes = [FORK.Process(target=run_writer, args=(tmp_path, 1, tmp_path / f"log{number}")) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (folder,) = (tmp_path / "features").iterdir()
    assert contents(folder) == expected
    assert sum(len(path.read_text()) for path in tmp_path.glob("log*")) == 7  # batches; none is computed twice


def test_writer_waits_for_shards_locked_by_another_process(tmp_path: Path) -> None:
    cache = write(tmp_path)
    content = cache.path(0).read_bytes()
    cache.path(0).unlink()
    with file_lock(cache.path(0)) as is_locked:
        assert is_locked
        process = FORK.Process(target=run_writer, args=(tmp_path, 1, tmp_path / "log"))
        process.start()
        time.sleep(0.3)
        assert process.is_alive()
        cache.path(0).write_bytes(content)
    process.join()
    assert process.exitcode == 0
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("failure", ["missing", "refused"])
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    expected = contents(write(tmp_path, "whole").folder)
    if failure == "missing":
        monkeypatch.setattr("object_discovery.files.fcntl", None)
    else:

        def refuse(*arguments: object) -> None:
            raise OSError("no locks here")

        monkeypatch.setattr("fcntl.flock", refuse)
    assert contents(write(tmp_path).folder) == expected


@pytest.mark.parametrize("damage", ["truncated", "junk", "foreign"])
def test_damaged_shards_are_computed_again(tmp_path: Path, damage: str) -> None:
    cache = write(tmp_path)
    expected = contents(cache.folder)
    path = cache.path(2)
    content = {"truncated": path.read_bytes()[:3000], "junk": b"junk" * 99, "foreign": cache.path(1).read_bytes()}
    path.write_bytes(content[damage])
    assert contents(write(tmp_path).folder) == expected


def test_features_beyond_half_precision_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = FrozenEncoder.forward
    monkeypatch.setattr(FrozenEncoder, "forward", lambda self, images: forward(self, images) * 1e9)
    with pytest.raises(UserError, match="test_efficientnet do not fit into float16: do not cache them"):
        write(tmp_path)


def test_generated_scenes_are_padded_to_a_whole_shard() -> None:
    from object_discovery import TetrominoesDataModule

    data = TetrominoesDataModule(resolution=SIZE, train_size=6, num_workers=0)
    images = writer.every_image(data.train_set, SHARD)
    assert len(images) == 8
    assert torch.equal(images[5]["image"], data.train_set[5]["image"])
    assert scenes_key("tetrominoes", data.train_set, {"seed": 0})["first"] == 0
