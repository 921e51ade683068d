import multiprocessing
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from object_discovery.data.label_maps import count_pixels, label_map
from object_discovery.data.readers import hdf5_scenes
from object_discovery.data.readers.deflate import deflate
from object_discovery.data.readers.hdf5_scenes import SceneFile, compress_scene, write_scenes
from object_discovery.data.readers.multi_object_datasets import find_schema
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from tests.data.tfrecord_writer import Features, random_scene, reference_labels

NAMES = ["tetrominoes", "multi_dsprites", "objects_room"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "object_discovery"


def write_published(path: Path, scenes: list[Features], dataset: str, entities_first: bool = True) -> Path:
    with h5py.File(path, "w") as file:
        for name in scenes[0]:
            data = np.stack([scene[name] for scene in scenes])
            if name == "mask" and dataset == "multi_dsprites" and entities_first:
                data = np.moveaxis(data, 3, 1)
            file.create_dataset(name, data=data, compression="gzip", chunks=True)
    return path


def write_ours(path: Path, scenes: list[Features], dataset: str, crop: Any = None, **attributes: Any) -> Path:
    rows = []
    for scene in scenes:
        labels = reference_labels(scene, dataset)
        columns = {f"factors/{name}": value for name, value in scene.items() if name not in ("image", "mask")}
        columns["counts/frame"] = np.bincount(labels.ravel(), minlength=256)[:12].astype(np.int32)
        if crop:
            columns["counts/crop"] = np.full(12, 7, np.int32)  # distinguishable from computed counts
        rows.append(compress_scene(scene["image"], labels, columns, crop))
    height, width, channels = scenes[0]["image"].shape
    write_scenes(path, rows, len(rows), (height, width, channels), {"dataset": dataset, **attributes}, crop)
    return path


def count_objects_in_crop(labels: NDArray[np.uint8], crop: tuple[int, int, int, int]) -> int:
    top, left, height, width = crop
    return len(set(labels[top : top + height, left : left + width].ravel().tolist()) - {0, 255})


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize("entities_first", [True, False])
def test_both_formats_give_the_same_scenes(tmp_path: Path, dataset: str, entities_first: bool) -> None:
    scenes = [random_scene(dataset, seed) for seed in range(3)]
    published = SceneFile(write_published(tmp_path / "published.h5", scenes, dataset, entities_first))
    ours = SceneFile(write_ours(tmp_path / "ours.h5", scenes, dataset))
    assert published.dataset == ours.dataset == dataset
    assert len(published) == len(ours) == 3
    for index, scene in enumerate(scenes):
        for file in (published, ours):
            np.testing.assert_array_equal(file.image(index), scene["image"])
            np.testing.assert_array_equal(file.mask(index), reference_labels(scene, dataset))
            assert file.image(index).dtype == file.mask(index).dtype == np.uint8
            assert file.image(index).flags.writeable
            factors = file.factors(index)
            assert factors.keys() == scene.keys() - {"image", "mask"}
            assert all(np.array_equal(factors[name], scene[name]) for name in factors)
    crop = (5, 3, 20, 25)
    expected = [count_objects_in_crop(reference_labels(scene, dataset), crop) for scene in scenes]
    assert published.object_counts(crop).tolist() == ours.object_counts(crop).tolist() == expected
    assert published.object_counts(None).tolist() == ours.object_counts(None).tolist()


def test_the_published_clevr_file_is_recognised(tmp_path: Path) -> None:
    scene = random_scene("clevr_with_masks", 0)
    file = SceneFile(write_published(tmp_path / "a.h5", [scene], "clevr_with_masks"))
    labels = reference_labels(scene, "clevr_with_masks")
    assert file.dataset == "clevr_with_masks"
    np.testing.assert_array_equal(file.mask(0), labels)
    assert file.object_counts((29, 64, 192, 192)).tolist() == [count_objects_in_crop(labels, (29, 64, 192, 192))]


def test_a_single_channel_is_repeated(tmp_path: Path) -> None:
    scene = random_scene("multi_dsprites", 0, variant="binarized")
    for write in (write_published, write_ours):
        file = SceneFile(write(tmp_path / f"{write.__name__}.h5", [scene], "multi_dsprites"))
        np.testing.assert_array_equal(file.image(0), np.concatenate([scene["image"]] * 3, axis=2))
    assert SceneFile(tmp_path / "write_published.h5").variant == "binarized"


def test_unknown_shapes_have_no_dataset_and_attributes_name_the_variant(tmp_path: Path) -> None:
    scene = {"image": np.zeros((8, 8, 3), np.uint8), "mask": np.zeros((3, 8, 8, 1), np.uint8)}
    file = SceneFile(write_published(tmp_path / "a.h5", [scene], "?"))
    assert (file.dataset, file.variant) == (None, None)
    assert (file.mask(0) == 255).all()
    ours = SceneFile(write_ours(tmp_path / "b.h5", [scene], "mine", variant="small"))
    assert (ours.dataset, ours.variant) == ("mine", "small")


def test_find_schema_distinguishes_objects_room_from_multi_dsprites() -> None:
    rooms, sprites = find_schema((64, 64, 3), 4, False), find_schema((64, 64, 1), 4, True)
    assert rooms is not None
    assert rooms.name == "objects_room"
    assert sprites is not None
    assert sprites.variant == "binarized"
    assert find_schema((64, 64, 3), 4, True) is None


def test_in_label_maps_the_first_entity_wins_and_background_entities_are_0() -> None:
    masks = np.zeros((6, 1, 4), np.uint8)
    masks[[3, 4, 5], 0, [0, 1, 2]] = 255
    masks[5, 0, 1] = 255
    assert label_map(masks, 4).tolist() == [[0, 1, 2, 255]]
    assert label_map(masks).tolist() == [[3, 4, 5, 255]]


def test_count_pixels_in_a_crop() -> None:
    labels = np.array([[0, 1, 1], [2, 255, 1]], np.uint8)
    assert count_pixels(labels, 4).tolist() == [1, 3, 1, 0]
    assert count_pixels(labels, 4, (0, 1, 2, 1)).tolist() == [0, 1, 0, 0]


def test_stored_counts_are_read_without_a_cache(tmp_path: Path, cache_folder: Path) -> None:
    crop = (1, 2, 20, 21)
    file = SceneFile(write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes", crop))
    assert file.object_counts(crop).tolist() == [11]
    file.object_counts(None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5"]


def test_computed_counts_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(5)]
    path = write_published(tmp_path / "a.h5", scenes, "tetrominoes")
    monkeypatch.setattr(hdf5_scenes, "_BLOCK_BYTES", 1)
    counts = SceneFile(path).object_counts(None)
    assert counts.tolist() == [
        count_objects_in_crop(reference_labels(scene, "tetrominoes"), (0, 0, 35, 35)) for scene in scenes
    ]
    assert len(list(tmp_path.glob("a.h5.*.counts.cache"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(hdf5_scenes, "count_pixels", None)  # not callable
        assert SceneFile(path).object_counts(None).tolist() == counts.tolist()
    crop = (5, 3, 20, 25)
    expected = [count_objects_in_crop(reference_labels(scene, "tetrominoes"), crop) for scene in scenes]
    assert SceneFile(path).object_counts(crop).tolist() == expected != counts.tolist()
    write_published(path, scenes[:2], "tetrominoes")
    assert SceneFile(path).object_counts(None).tolist() == counts[:2].tolist()


def test_crop_must_be_inside_the_frame(tmp_path: Path) -> None:
    file = SceneFile(write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes"))
    for crop in ((-1, 0, 5, 5), (0, 0, 36, 5), (0, 31, 5, 5), (0, 0, 0, 5)):
        with pytest.raises(ValueError, match="Expected argument `crop` to be inside the frame of 35 x 35"):
            file.object_counts(crop)


def test_negative_indices_work_and_too_large_ones_raise(tmp_path: Path) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(2)]
    file = SceneFile(write_ours(tmp_path / "a.h5", scenes, "tetrominoes"))
    np.testing.assert_array_equal(file.image(-1), scenes[1]["image"])
    with pytest.raises(IndexError):
        file.image(2)


def _read(file: SceneFile, index: int) -> tuple[int, bytes]:
    return os.getpid(), file.image(index).tobytes()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_spawned_and_forked_processes_read_the_file(tmp_path: Path, method: str) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(4)]
    file = SceneFile(write_ours(tmp_path / "a.h5", scenes, "tetrominoes"))
    file.image(0)
    with multiprocessing.get_context(method).Pool(1) as pool:
        results = pool.starmap(_read, [(file, index) for index in range(4)])
    assert [data for _, data in results] == [scene["image"].tobytes() for scene in scenes]
    assert os.getpid() not in {process for process, _ in results}


def test_a_forked_process_opens_the_file_again(tmp_path: Path) -> None:
    file = SceneFile(write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes"))
    before = file._contents
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        reopened = file._contents is not before and file.mask(0).shape == (35, 35)
        os.write(writer, b"new" if reopened else b"old")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 3) == b"new"
    assert file._contents is before
    assert file.mask(0).shape == (35, 35)


def test_pickled_and_closed_files_are_opened_again(tmp_path: Path) -> None:
    scene = random_scene("tetrominoes", 0)
    file = SceneFile(write_ours(tmp_path / "a.h5", [scene], "tetrominoes"))
    file.image(0)
    copy = pickle.loads(pickle.dumps(file))
    file.close()
    for opened in (copy, file):
        np.testing.assert_array_equal(opened.image(0), scene["image"])


def test_equal_scenes_give_equal_bytes_that_h5py_reads(tmp_path: Path) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(2)]
    first, second = (write_ours(tmp_path / name, scenes, "tetrominoes") for name in ("a.h5", "b.h5"))
    assert first.read_bytes() == second.read_bytes()
    with h5py.File(first) as file:
        assert file["image"].chunks == (1, 35, 35, 3)
        assert file["image"].compression == file["mask"].compression == "gzip"
        np.testing.assert_array_equal(file["image"][1], scenes[1]["image"])
        np.testing.assert_array_equal(file["factors/x"][:], np.stack([scene["x"] for scene in scenes]))
        assert dict(file.attrs) == {"format": "object_discovery", "version": 1, "dataset": "tetrominoes"}


def check_error(path: Path, match: str) -> None:
    """Check that reading a file raises one line that names it."""
    for use in (len, lambda file: file.image(0)):
        with pytest.raises(CorruptFileError, match=match) as error:
            use(SceneFile(path))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_missing_truncated_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"No such file: .*none\.h5"):
        len(SceneFile(tmp_path / "none.h5"))
    check_error(tmp_path, "expected an HDF5 file of scenes, but got a folder")
    (tmp_path / "text.h5").write_text("hello" * 99)
    check_error(tmp_path / "text.h5", "expected a whole HDF5 file")
    content = write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "truncated.h5").write_bytes(content[:size])
        check_error(tmp_path / "truncated.h5", "expected a whole HDF5 file")


def test_unreadable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.h5").touch()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*a\.h5: permission denied"):
        len(SceneFile(tmp_path / "a.h5"))


@pytest.mark.parametrize(
    ("datasets", "match"),
    [
        ({"labels": np.zeros(3)}, "no dataset `image`"),
        ({"image": np.zeros((2, 8, 8, 3), np.uint8)}, "no dataset `mask`"),
        ({"image": np.zeros((2, 8, 8, 3)), "mask": np.zeros((2, 3, 8, 8, 1))}, "expected `image` to be uint8"),
        (
            {"image": np.zeros((2, 3, 8, 8), np.uint8), "mask": np.zeros((2, 3, 8, 8, 1))},
            "expected `image` to be uint8",
        ),
        (
            {"image": np.zeros((2, 8, 8, 3), np.uint8), "mask": np.zeros((1, 3, 8, 8, 1))},
            "expected `mask` to have a map",
        ),
        (
            {"image": np.zeros((2, 8, 8, 3), np.uint8), "mask": np.zeros((2, 3, 7, 8, 1))},
            "expected `mask` to have a map",
        ),
    ],
)
def test_other_hdf5_files_are_refused(tmp_path: Path, datasets: dict[str, NDArray[Any]], match: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, data in datasets.items():
            file[name] = data
    check_error(tmp_path / "a.h5", match)


def test_files_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes")
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 2
    check_error(path, "written by a newer version")


def test_a_damaged_chunk_raises_one_line(tmp_path: Path) -> None:
    scene = random_scene("tetrominoes", 0)
    path = write_ours(tmp_path / "a.h5", [scene], "tetrominoes")
    content, chunk = path.read_bytes(), deflate(scene["image"])
    assert content.count(chunk) == 1
    path.write_bytes(content.replace(chunk, bytes(len(chunk))))
    with pytest.raises(CorruptFileError, match="cannot read `/image` of scene 0, get or convert") as error:
        SceneFile(path).image(0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(60))
def test_damage_raises_only_corrupt_file_errors(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes")
    content = bytearray(path.read_bytes())
    start = int(rng.integers(0, len(content) - 64))
    content[start : start + 64] = rng.bytes(64)
    path.write_bytes(content)
    file = SceneFile(path)
    for use in (lambda: file.image(0), lambda: file.mask(0), lambda: file.factors(0), lambda: file.object_counts(None)):
        with suppress(CorruptFileError):
            use()
