from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.datasets.objects_room import ObjectsRoomDataModule
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.objects_room import ENTITIES, SIZES, scenes, write_objects_room, write_objects_room_file
from tests.data.scene_files import make_scenes, write_own
from tests.data.tfrecord_writer import example, reference_labels, write

ALL = slice(None)
TESTS = ["six_objects", "empty_room", "identical_color"]


@pytest.fixture(scope="module", params=["published", "own"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files, as the published HDF5 conversions and as converted from TFRecords by this library."""
    folder, records = tmp_path_factory.mktemp("rooms"), tmp_path_factory.mktemp("records")
    if request.param == "published":
        return write_objects_room(folder)
    for name in SIZES:
        source = records / f"objects_room_{name}.tfrecords"
        write(source, [example(scene) for scene in scenes(name)])
        assert convert_tfrecord(source, folder / f"objects_room_{name}.h5") == SIZES[name]
    return folder


@cache
def labels(name: str) -> list[NDArray[np.uint8]]:
    return [reference_labels(scene, "objects_room") for scene in scenes(name)]


def assert_equal_scenes(data: ObjectsRoomDataModule, split: str, name: str, part: slice = ALL) -> None:
    dataset = getattr(data, f"{split}_set")
    assert len(dataset) == len(scenes(name)[part])
    for index, (scene, expected) in enumerate(zip(scenes(name)[part], labels(name)[part], strict=True)):
        np.testing.assert_array_equal(dataset[index]["image"], scene["image"].transpose(2, 0, 1))
        np.testing.assert_array_equal(dataset[index]["mask"], expected)


def test_training_file_is_split(root: Path) -> None:
    data = ObjectsRoomDataModule(data_root=str(root))
    for split, part in (("train", slice(0, 18)), ("val", slice(18, 19)), ("test", slice(19, 20))):
        assert_equal_scenes(data, split, "train", part)
    assert data.variant == "train"


@pytest.mark.parametrize("variant", TESTS)
def test_test_split_of_a_variant_is_its_file(root: Path, variant: str) -> None:
    data = ObjectsRoomDataModule(data_root=str(root), variant=variant)
    assert_equal_scenes(data, "test", f"test_{variant}")
    assert len(data.train_set) == 18
    assert len(data.val_set) == 1
    largest = max(int(data.test_set[index]["mask"].max()) for index in range(len(data.test_set)))
    assert largest == ENTITIES[f"test_{variant}"] - 4
    assert f"objects_room ({variant})" in data.describe()


def test_object_counts_exclude_sky_floor_and_walls(root: Path) -> None:
    counts = [len(np.unique(expected)) - 1 for expected in labels("train")[:18]]
    assert len(set(counts)) > 1
    data = ObjectsRoomDataModule(data_root=str(root), max_objects=2)
    assert len(data.train_set) == sum(count <= 2 for count in counts)
    empty = ObjectsRoomDataModule(data_root=str(root), variant="empty_room", max_objects=0)
    assert len(empty.test_set) == SIZES["test_empty_room"]


@pytest.mark.parametrize("variant", TESTS)
def test_single_test_file(tmp_path: Path, variant: str) -> None:
    path = write_objects_room_file(tmp_path, f"test_{variant}")
    for location in (path, tmp_path):
        for given in (None, variant):
            data = ObjectsRoomDataModule(data_root=str(location), variant=given)
            assert_equal_scenes(data, "test", f"test_{variant}")
            assert data.variant == variant
            with pytest.raises(DatasetNotFoundError, match=r"Expected a train split in .*, but it has test only"):
                data.setup("fit")
    with pytest.raises(DatasetNotFoundError, match=rf"to hold the variant train of objects_room, .* {path.name} only"):
        ObjectsRoomDataModule(data_root=str(tmp_path), variant="train").setup("fit")


def test_single_training_file(tmp_path: Path) -> None:
    path = write_objects_room_file(tmp_path, "train")
    renamed = path.rename(tmp_path / "rooms.h5")
    assert len(ObjectsRoomDataModule(data_root=str(renamed)).test_set) == 1
    with pytest.raises(DatasetNotFoundError, match=r"Expected a test split in .*, but it has train, val only"):
        ObjectsRoomDataModule(data_root=str(renamed), variant="six_objects").setup("test")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="none does not exist"):
        ObjectsRoomDataModule(data_root=str(tmp_path / "none")).setup("fit")
    record = tmp_path / "objects_room_train.tfrecords"
    record.touch()
    for location in (tmp_path, record):
        with pytest.raises(DatasetNotFoundError, match=r"to hold HDF5 files .* found none at .*convert records"):
            ObjectsRoomDataModule(data_root=str(location)).setup("fit")
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"Expected one file of the variant train in .*, but got a\.h5 and b\.h5"):
        ObjectsRoomDataModule(data_root=str(tmp_path)).setup("fit")
    with pytest.raises(DatasetNotFoundError, match=r"but got None: .*convert records"):
        ObjectsRoomDataModule().setup("fit")


def test_truncated_and_other_files_are_refused(tmp_path: Path) -> None:
    path = write_objects_room_file(tmp_path, "train")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match="expected a whole HDF5 file"):
        ObjectsRoomDataModule(data_root=str(tmp_path)).setup("fit")
    path.unlink()
    images, labels = make_scenes([1, 2, 3])
    write_own(path, images, labels, "tetrominoes", entities=4)
    with pytest.raises(UserError, match="to hold objects_room, but it holds tetrominoes: give `--dataset tetrominoes`"):
        ObjectsRoomDataModule(data_root=str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("size", "match"), [(0, "but it is empty: convert it again"), (2, "at least 3 scenes .* got 2")]
)
def test_too_few_scenes_are_refused(tmp_path: Path, size: int, match: str) -> None:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["image"], file["mask"] = np.zeros((size, 64, 64, 3), np.uint8), np.zeros((size, 7, 64, 64, 1), np.uint8)
    with pytest.raises(UserError, match=match):
        ObjectsRoomDataModule(data_root=str(tmp_path)).setup("fit")
