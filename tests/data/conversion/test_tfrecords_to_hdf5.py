import gzip
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from object_discovery.data.conversion import tfrecords_to_hdf5
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert
from object_discovery.data.readers import hdf5_scenes
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.tfrecord_writer import DATA, draw, example, example_class, frame, reference_labels, write

SCRIPT = Path(__file__).parents[3] / "data_scripts" / "convert_tfrecords.py"
SETS: list[tuple[str, dict[str, Any]]] = [
    ("tetrominoes", {}),
    ("multi_dsprites", {"variant": "binarized"}),
    ("multi_dsprites", {"variant": "colored_on_grayscale"}),
    ("multi_dsprites", {"variant": "colored_on_colored"}),
    ("objects_room", {"entities": 4}),
    ("objects_room", {"entities": 7}),
    ("objects_room", {"entities": 10}),
]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecords_to_hdf5, "PART_BYTES", 35 * 35 * 4 * 10)


def tetrominoes(path: Path, number: int = 25) -> Path:
    return write(path, [example(draw("tetrominoes", seed)) for seed in range(number)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("dataset", "options"), SETS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_dataset(tmp_path: Path, dataset: str, options: dict[str, Any], packed: bool) -> None:
    scenes = [draw(dataset, seed, **options) for seed in range(3)]
    compression = "zlib" if packed else "gzip"
    source = write(tmp_path / "a.tfrecords", [example(scene, packed) for scene in scenes], compression)
    assert convert(source, tmp_path / "a.h5") == 3
    file = SceneFile(tmp_path / "a.h5")
    assert (file.dataset, file.variant) == (dataset, options.get("variant"))
    for index, scene in enumerate(scenes):
        np.testing.assert_array_equal(file.image(index), np.broadcast_to(scene["image"], file.image(index).shape))
        np.testing.assert_array_equal(file.mask(index), reference_labels(scene, dataset))
        factors = file.factors(index)
        assert factors.keys() == scene.keys() - {"image", "mask"}
        for name, values in factors.items():
            np.testing.assert_array_equal(values, scene[name])
            assert values.dtype == scene[name].dtype
    expected = [len(set(reference_labels(scene, dataset).ravel().tolist()) - {0, 255}) for scene in scenes]
    assert file.object_counts(None).tolist() == expected
    assert names(tmp_path) == ["a.h5", "a.tfrecords"]


def test_clevr_counts_in_the_published_crop(tmp_path: Path) -> None:
    scene = draw("clevr_with_masks", 3)
    source = write(tmp_path / "a.tfrecords", [example(scene, packed=True)])
    convert(source, tmp_path / "a.h5", "clevr_with_masks")
    labels = scene["mask"][..., 0].argmax(axis=0)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["counts/crop"].attrs["crop"].tolist() == [29, 64, 192, 192]
        for name, part in (("frame", labels), ("crop", labels[29:221, 64:256])):
            assert file["counts"][name][0].tolist() == [(part == label).sum() for label in range(11)]
        assert file["factors/pixel_coords"].shape == (1, 11, 3)


@pytest.mark.skipif(not DATA.is_dir(), reason="the rendered CLEVR scenes are not beside the checkout (../shared/data)")
def test_real_file_bit_for_bit(tmp_path: Path) -> None:
    assert convert(DATA / "test.tfrecords", tmp_path / "a.h5", limit=3) == 3
    scenes = SceneFile(tmp_path / "a.h5")
    assert scenes.dataset == "clevr_with_masks"
    with gzip.open(DATA / "test.tfrecords") as file:
        for index in range(3):
            (length,) = struct.unpack("<Q4x", file.read(12))
            message = example_class().FromString(file.read(length))  # its parts do not outlive it
            features = message.features.feature
            file.read(4)
            image, mask = (
                np.frombuffer(b"".join(features[name].bytes_list.value), np.uint8) for name in ("image", "mask")
            )
            np.testing.assert_array_equal(scenes.image(index), image.reshape(240, 320, 3))
            masks = mask.reshape(11, 240, 320)
            labels = scenes.mask(index)
            for entity in range(11):
                np.testing.assert_array_equal(labels == entity, masks[entity] == 255)
            factors = scenes.factors(index)
            for name in features.keys() - {"image", "mask"}:
                values = features[name].float_list.value or list(b"".join(features[name].bytes_list.value))
                assert factors[name].ravel().tolist() == list(values)
            assert scenes.object_counts(None)[index] == factors["visibility"][1:].sum()


def test_limit_workers_and_parts_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tetrominoes(tmp_path / "a.tfrecords")
    convert(source, tmp_path / "one.h5", workers=1)
    monkeypatch.setattr(tfrecords_to_hdf5, "PART_BYTES", 35 * 35 * 4 * 6)
    time.sleep(1.1)  # HDF5's own time stamps would count seconds
    convert(source, tmp_path / "two.h5", workers=3)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    assert convert(source, tmp_path / "three.h5", limit=7) == len(SceneFile(tmp_path / "three.h5")) == 7
    assert convert(source, tmp_path / "four.h5", limit=99) == 25


def _convert(source: Path, target: Path) -> None:
    convert(source, target, overwrite=True)


@pytest.mark.usefixtures("small_parts")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    source = tetrominoes(tmp_path / "a.tfrecords", 145)
    reference, target = tmp_path / "reference.h5", tmp_path / "b.h5"
    start = time.perf_counter()
    convert(source, reference)
    duration = time.perf_counter() - start
    expected, rng, kills, kept = reference.read_bytes(), random.Random(0), 0, 0
    fork = multiprocessing.get_context("fork")

    def parts() -> list[Path]:
        return list(tmp_path.glob("b.h5.parts/part_*.h5"))

    while kills < 6:
        child = fork.Process(target=_convert, args=(source, target))
        child.start()
        while kills == 0 and child.is_alive() and not parts():
            time.sleep(0.001)  # the first one lives until it has stored a part
        time.sleep(rng.uniform(0, duration) if kills else 0)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        if child.exitcode == -signal.SIGKILL:
            kills += 1
        if target.exists():
            assert target.read_bytes() == expected
            target.unlink()
        kept = max(kept, len(parts()))
        if kills % 3 == 0:
            convert(source, target, overwrite=True)
            assert target.read_bytes() == expected
            assert names(tmp_path) == ["a.tfrecords", "b.h5", "reference.h5"]
            target.unlink()
    assert kept > 0
    assert convert(source, target) == 145
    assert target.read_bytes() == expected
    assert names(tmp_path) == ["a.tfrecords", "b.h5", "reference.h5"]


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> list[str]:
    """Make the writer of files raise when it is called for the n-th time; return the list of what it wrote."""
    written: list[str] = []
    original = hdf5_scenes.write_scenes

    def write_scenes(path: Path, *arguments: Any) -> None:
        if len(written) == number:
            raise error
        original(path, *arguments)
        written.append(path.name)

    monkeypatch.setattr(tfrecords_to_hdf5, "write_scenes", write_scenes)
    return written


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_goes_on_from_the_parts(tmp_path: Path, stop: int) -> None:
    source, target = tetrominoes(tmp_path / "a.tfrecords"), tmp_path / "b.h5"
    convert(source, tmp_path / "reference.h5")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, stop, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(source, target)
    assert len(list(tmp_path.glob("b.h5.parts/part_*.h5"))) == stop
    assert not target.exists()
    with pytest.MonkeyPatch.context() as patch:
        written = stop_after(patch, 99, KeyboardInterrupt())
        assert convert(source, target) == 25
        assert len(written) == 4 - stop
    assert target.read_bytes() == (tmp_path / "reference.h5").read_bytes()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("change", ["source", "limit", "damaged"])
def test_parts_of_something_else_are_not_used(tmp_path: Path, change: str) -> None:
    source, target = tetrominoes(tmp_path / "a.tfrecords"), tmp_path / "b.h5"
    limit = 24 if change == "limit" else None
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(source, target)
    if change == "source":
        write(source, [example(draw("tetrominoes", 100 + seed)) for seed in range(25)])
    if change == "damaged":
        (tmp_path / "b.h5.parts" / "part_000000.h5").write_bytes(b"damaged")
    convert(source, target, limit=limit)
    convert(source, tmp_path / "reference.h5", limit=limit)
    assert target.read_bytes() == (tmp_path / "reference.h5").read_bytes()
    assert names(tmp_path) == ["a.tfrecords", "b.h5", "reference.h5"]


def test_existing_target(tmp_path: Path) -> None:
    source, target = tetrominoes(tmp_path / "a.tfrecords", 2), tmp_path / "b.h5"
    target.write_text("mine")
    (tmp_path / "b.h5.parts").mkdir()
    with pytest.raises(UserError, match=r"b\.h5 exists already"):
        convert(source, target)
    assert target.read_text() == "mine"
    assert names(tmp_path) == ["a.tfrecords", "b.h5"]
    assert convert(source, target, overwrite=True) == 2
    assert len(SceneFile(target)) == 2


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("number", [0, 1, 14, 24])
def test_corrupt_record(tmp_path: Path, number: int) -> None:
    frames = [frame(example(draw("tetrominoes", seed))) for seed in range(25)]
    offset = sum(len(one) for one in frames[:number])
    damaged = bytearray(b"".join(frames))
    damaged[offset + 5000] ^= 16
    damaged[-1] ^= 1  # a later error, which is not the one to name
    (tmp_path / "a.tfrecords").write_bytes(gzip.compress(damaged, 1))
    with pytest.raises(CorruptFileError, match=rf"a\.tfrecords: damaged at byte {offset} ") as error:
        convert(tmp_path / "a.tfrecords", tmp_path / "b.h5")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["a.tfrecords"]


@pytest.mark.usefixtures("small_parts")
def test_truncated_source(tmp_path: Path) -> None:
    source = tetrominoes(tmp_path / "a.tfrecords")
    source.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(CorruptFileError, match="damaged at byte"):
        convert(source, tmp_path / "b.h5")
    assert names(tmp_path) == ["a.tfrecords"]


def test_first_error_in_the_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecords_to_hdf5, "_BLOCK_BYTES", 1)
    first, second, third = (frame(example(draw("tetrominoes", seed))) for seed in range(3))
    source = tmp_path / "a.tfrecords"
    source.write_bytes(first + second[:-1] + bytes([second[-1] ^ 1]) + third[:-9])
    with pytest.raises(CorruptFileError, match=f"damaged at byte {len(first)} "):
        convert(source, tmp_path / "b.h5")


def test_records_that_differ_from_the_first(tmp_path: Path) -> None:
    scene = draw("tetrominoes", 0)
    short, missing = scene | {"image": scene["image"][1:]}, {name: scene[name] for name in ("image", "mask")}
    longer = scene | {"x": np.zeros(5, np.float32)}
    for other in (short, missing, longer):
        source = write(tmp_path / "a.tfrecords", [example(scene), example(other)])
        with pytest.raises(CorruptFileError, match="other features or sizes than the first"):
            convert(source, tmp_path / "b.h5")
        assert names(tmp_path) == ["a.tfrecords"]


def test_foreign_scenes(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tfrecords", [example({"image": np.zeros(12, np.uint8)})])
    with pytest.raises(CorruptFileError, match="expected scenes of a known dataset, but got `image` of 12 "):
        convert(source, tmp_path / "b.h5")
    with pytest.raises(CorruptFileError, match="expected scenes of objects_room, but got"):
        convert(tetrominoes(source, 1), tmp_path / "b.h5", "objects_room")
    with pytest.raises(CorruptFileError, match="holds no record"):
        convert(write(source, []), tmp_path / "b.h5")
    assert names(tmp_path) == ["a.tfrecords"]


@pytest.mark.parametrize("name", ["", "a/b", "x\0", "é", "n" * 101])
def test_features_with_odd_names(tmp_path: Path, name: str) -> None:
    scene = draw("tetrominoes", 0) | {name: np.zeros(4, np.float32)}
    source = write(tmp_path / "a.tfrecords", [example(scene)])
    with pytest.raises(CorruptFileError, match=r"a\.tfrecords: damaged at byte 0 .*: a feature has the odd name '"):
        convert(source, tmp_path / "b.h5")
    assert names(tmp_path) == ["a.tfrecords"]


def test_wrong_arguments(tmp_path: Path) -> None:
    source = tetrominoes(tmp_path / "a.tfrecords", 1)
    with pytest.raises(DatasetNotFoundError, match=r"Expected argument `dataset` to be one of tetrominoes, .* got 'x'"):
        convert(source, tmp_path / "b.h5", "x")
    with pytest.raises(ValueError, match="Expected argument `limit` to be at least 1, but got 0"):
        convert(source, tmp_path / "b.h5", limit=0)
    with pytest.raises(ValueError, match="Expected argument `workers` to be at least 0, but got -1"):
        convert(source, tmp_path / "b.h5", workers=-1)
    with pytest.raises(DatasetNotFoundError, match="No such file"):
        convert(tmp_path / "none", tmp_path / "b.h5")
    with pytest.raises(UserError, match=r"Cannot write .*none/b\.h5: "):
        convert(source, tmp_path / "none" / "b.h5")
    assert names(tmp_path) == ["a.tfrecords"]


def test_full_disk(tmp_path: Path) -> None:
    source = tetrominoes(tmp_path / "a.tfrecords", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
        with pytest.raises(UserError, match="the disk is too full"):
            convert(source, tmp_path / "b.h5")
    convert(source, tmp_path / "b.h5")
    for error in (OSError(28, "No space left on device"), RuntimeError("No space left\non device")):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 0, error)
            with pytest.raises(UserError, match=r"Cannot write .*c\.h5: No space left on device"):
                convert(source, tmp_path / "c.h5")
        assert names(tmp_path) == ["a.tfrecords", "b.h5"]


def run(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_command_line(tmp_path: Path) -> None:
    source = tetrominoes(tmp_path / "a.tfrecords", 3)
    target = tmp_path / "b.h5"
    assert run(source, target, "--limit", 2, "--num_workers", 1, "--no-progress") == (0, f"{target}: 2 scenes\n", "")


def test_command_line_in_this_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from convert_tfrecords import main

    source = tetrominoes(tmp_path / "a.tfrecords", 2)
    assert main([str(source), str(source)]) == 2
    assert capsys.readouterr() == (
        "",
        f"error: {source} exists already; choose another name or allow it to be overwritten\n",
    )
    source.write_bytes(source.read_bytes()[:-50])
    assert main([str(source), str(tmp_path / "b.h5")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {source}: damaged at byte ")
    assert main([]) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: source, target\n"
    tetrominoes(source, 2)
    stop_after(monkeypatch, 0, KeyboardInterrupt())
    assert main([str(source), str(tmp_path / "b.h5")]) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"
    assert (tmp_path / "b.h5.parts").is_dir()
