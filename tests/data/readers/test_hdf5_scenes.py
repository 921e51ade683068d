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
from object_discovery.data.readers.hdf5_scenes import SceneFile, compress_scene, write_scenes
from object_discovery.data.readers.multi_object_datasets import find_schema
from object_discovery.data.readers.strips import deflate
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
            columns["counts/crop"] = np.full(12, 7, np.int32)  # told apart from counting
        rows.append(compress_scene(scene["image"], labels, columns, crop))
    height, width, channels = scenes[0]["image"].shape
    write_scenes(path, rows, len(rows), (height, width, channels), {"dataset": dataset, **attributes}, crop)
    return path


def objects_in(labels: NDArray[np.uint8], crop: tuple[int, int, int, int]) -> int:
    top, left, height, width = crop
    return len(set(labels[top : top + height, left : left + width].ravel().tolist()) - {0, 255})


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize("entities_first", [True, False])
def test_both_layouts_give_the_same_scenes(tmp_path: Path, dataset: str, entities_first: bool) -> None:
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
    expected = [objects_in(reference_labels(scene, dataset), crop) for scene in scenes]
    assert published.object_counts(crop).tolist() == ours.object_counts(crop).tolist() == expected
    assert published.object_counts(None).tolist() == ours.object_counts(None).tolist()


def test_clevr_as_published(tmp_path: Path) -> None:
    scene = random_scene("clevr_with_masks", 0)
    file = SceneFile(write_published(tmp_path / "a.h5", [scene], "clevr_with_masks"))
    labels = reference_labels(scene, "clevr_with_masks")
    assert file.dataset == "clevr_with_masks"
    np.testing.assert_array_equal(file.mask(0), labels)
    assert file.object_counts((29, 64, 192, 192)).tolist() == [objects_in(labels, (29, 64, 192, 192))]


def test_one_channel_is_repeated(tmp_path: Path) -> None:
    scene = random_scene("multi_dsprites", 0, variant="binarized")
    for write in (write_published, write_ours):
        file = SceneFile(write(tmp_path / f"{write.__name__}.h5", [scene], "multi_dsprites"))
        np.testing.assert_array_equal(file.image(0), np.concatenate([scene["image"]] * 3, axis=2))
    assert SceneFile(tmp_path / "write_published.h5").variant == "binarized"


def test_variant_and_unknown_shapes(tmp_path: Path) -> None:
    scene = {"image": np.zeros((8, 8, 3), np.uint8), "mask": np.zeros((3, 8, 8, 1), np.uint8)}
    file = SceneFile(write_published(tmp_path / "a.h5", [scene], "?"))
    assert (file.dataset, file.variant) == (None, None)
    assert (file.mask(0) == 255).all()
    ours = SceneFile(write_ours(tmp_path / "b.h5", [scene], "mine", variant="small"))
    assert (ours.dataset, ours.variant) == ("mine", "small")


def test_find_scene_set_tells_rooms_from_sprites() -> None:
    rooms, sprites = find_schema((64, 64, 3), 4, False), find_schema((64, 64, 1), 4, True)
    assert rooms is not None
    assert rooms.name == "objects_room"
    assert sprites is not None
    assert sprites.variant == "binarized"
    assert find_schema((64, 64, 3), 4, True) is None


def test_label_map_of_overlaps_and_background() -> None:
    masks = np.zeros((6, 1, 4), np.uint8)
    masks[[3, 4, 5], 0, [0, 1, 2]] = 255
    masks[5, 0, 1] = 255
    assert label_map(masks, 4).tolist() == [[0, 1, 2, 255]]
    assert label_map(masks).tolist() == [[3, 4, 5, 255]]


def test_count_pixels_in_a_crop() -> None:
    labels = np.array([[0, 1, 1], [2, 255, 1]], np.uint8)
    assert count_pixels(labels, 4).tolist() == [1, 3, 1, 0]
    assert count_pixels(labels, 4, (0, 1, 2, 1)).tolist() == [0, 1, 0, 0]


def test_stored_counts_are_used(tmp_path: Path, cache_folder: Path) -> None:
    crop = (1, 2, 20, 21)
    file = SceneFile(write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes", crop))
    assert file.object_counts(crop).tolist() == [11]
    file.object_counts(None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5"]


def test_counts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(5)]
    path = write_published(tmp_path / "a.h5", scenes, "tetrominoes")
    monkeypatch.setattr(hdf5_scenes, "_BLOCK_BYTES", 1)
    counts = SceneFile(path).object_counts(None)
    assert counts.tolist() == [objects_in(reference_labels(scene, "tetrominoes"), (0, 0, 35, 35)) for scene in scenes]
    assert len(list(tmp_path.glob("a.h5.*.counts.cache"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(hdf5_scenes, "_count_block", None)  # cannot be called
        assert SceneFile(path).object_counts(None).tolist() == counts.tolist()
    crop = (5, 3, 20, 25)
    expected = [objects_in(reference_labels(scene, "tetrominoes"), crop) for scene in scenes]
    assert SceneFile(path).object_counts(crop).tolist() == expected != counts.tolist()
    write_published(path, scenes[:2], "tetrominoes")
    assert SceneFile(path).object_counts(None).tolist() == counts[:2].tolist()


def test_crop_must_be_inside_the_frame(tmp_path: Path) -> None:
    file = SceneFile(write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes"))
    for crop in ((-1, 0, 5, 5), (0, 0, 36, 5), (0, 31, 5, 5), (0, 0, 0, 5)):
        with pytest.raises(ValueError, match="Expected argument `crop` to be inside the frame of 35 x 35"):
            file.object_counts(crop)


def test_indices(tmp_path: Path) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(2)]
    file = SceneFile(write_ours(tmp_path / "a.h5", scenes, "tetrominoes"))
    np.testing.assert_array_equal(file.image(-1), scenes[1]["image"])
    with pytest.raises(IndexError):
        file.image(2)


def _read(file: SceneFile, index: int) -> tuple[int, bytes]:
    return os.getpid(), file.image(index).tobytes()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes(tmp_path: Path, method: str) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(4)]
    file = SceneFile(write_ours(tmp_path / "a.h5", scenes, "tetrominoes"))
    file.image(0)
    with multiprocessing.get_context(method).Pool(1) as pool:
        results = pool.starmap(_read, [(file, index) for index in range(4)])
    assert [data for _, data in results] == [scene["image"].tobytes() for scene in scenes]
    assert os.getpid() not in {process for process, _ in results}


def test_forked_copy_opens_the_file_again(tmp_path: Path) -> None:
    file = SceneFile(write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes"))
    before = file._contents
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        fine = file._contents is not before and file.mask(0).shape == (35, 35)
        os.write(writer, b"fine" if fine else b"same")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 4) == b"fine"
    assert file._contents is before
    assert file.mask(0).shape == (35, 35)


def test_pickle_and_close(tmp_path: Path) -> None:
    scene = random_scene("tetrominoes", 0)
    file = SceneFile(write_ours(tmp_path / "a.h5", [scene], "tetrominoes"))
    file.image(0)
    copy = pickle.loads(pickle.dumps(file))
    file.close()
    for one in (copy, file):
        np.testing.assert_array_equal(one.image(0), scene["image"])


def test_same_scenes_same_bytes_and_any_reader(tmp_path: Path) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(2)]
    one, two = (write_ours(tmp_path / name, scenes, "tetrominoes") for name in ("one.h5", "two.h5"))
    assert one.read_bytes() == two.read_bytes()
    with h5py.File(one) as file:
        assert file["image"].chunks == (1, 35, 35, 3)
        assert file["image"].compression == file["mask"].compression == "gzip"
        np.testing.assert_array_equal(file["image"][1], scenes[1]["image"])
        np.testing.assert_array_equal(file["factors/x"][:], np.stack([scene["x"] for scene in scenes]))
        assert dict(file.attrs) == {"format": "object_discovery", "version": 1, "dataset": "tetrominoes"}


def one_line(path: Path, match: str) -> None:
    for use in (len, lambda file: file.image(0)):
        with pytest.raises(CorruptFileError, match=match) as error:
            use(SceneFile(path))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"No such file: .*none\.h5"):
        len(SceneFile(tmp_path / "none.h5"))
    one_line(tmp_path, "expected an HDF5 file of scenes, but got a folder")
    (tmp_path / "text.h5").write_text("hello" * 99)
    one_line(tmp_path / "text.h5", "expected a whole HDF5 file")
    whole = write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        one_line(tmp_path / "cut.h5", "expected a whole HDF5 file")


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_foreign_hdf5(tmp_path: Path, datasets: dict[str, NDArray[Any]], match: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, data in datasets.items():
            file[name] = data
    one_line(tmp_path / "a.h5", match)


def test_newer_version(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "a.h5", [random_scene("tetrominoes", 0)], "tetrominoes")
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 2
    one_line(path, "written by a newer version")


def test_damaged_chunk(tmp_path: Path) -> None:
    scene = random_scene("tetrominoes", 0)
    path = write_ours(tmp_path / "a.h5", [scene], "tetrominoes")
    content, chunk = path.read_bytes(), deflate(scene["image"])
    assert content.count(chunk) == 1
    path.write_bytes(content.replace(chunk, bytes(len(chunk))))
    with pytest.raises(CorruptFileError, match="cannot read `/image` of scene 0, get or convert") as error:
        SceneFile(path).image(0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_is_never_another_error(tmp_path: Path, seed: int) -> None:
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
