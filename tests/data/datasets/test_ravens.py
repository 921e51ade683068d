import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from object_discovery.data.datasets.ravens import RavensDataModule, RavensFile
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.ravens import COUNTS, scene, write_ravens, write_ravens_file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_ravens(tmp_path_factory.mktemp("ravens")))


@pytest.fixture(scope="module")
def small_frames(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two scenes with images of 8 x 8 pixels and `num_objects_on_table` objects."""
    folder = tmp_path_factory.mktemp("narrow")
    with h5py.File(folder / "ravens_a_train.h5", "w") as file:
        file["color"] = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
        segm = np.full((6, 8, 8), -1, np.int32)
        segm[:, 0] = [0, 1, 2, 3, 4, 5, 6, 7]
        file["segm"], file["num_objects_on_table"] = segm, np.array([4, 4])
    return str(folder)


@pytest.mark.parametrize(
    ("variant", "rows", "columns"),
    [("center", slice(0, 480), slice(70, 570)), ("alternative", slice(232, 470), slice(50, 590))],
)
def test_published_crops(root: str, variant: str, rows: slice, columns: slice) -> None:
    data = RavensDataModule(data_root=root, variant=variant, resolution=238)
    source = data.train_set.source  # type: ignore[attr-defined]
    images, segm = scene(0, COUNTS["train"][0])
    np.testing.assert_array_equal(source.image(0), images[0])
    sample = data.train_set[0]
    # nearest-neighbour interpolation of the crop, sampled at pixel centres
    height, width = rows.stop - rows.start, columns.stop - columns.start
    row, column = (np.floor((np.arange(238) + 0.5) * size / 238).astype(int) for size in (height, width))
    entities = segm[0, rows, columns][row][:, column]
    np.testing.assert_array_equal(sample["entities"], entities)
    np.testing.assert_array_equal(sample["mask"], np.where(entities < 4, 0, entities.astype(int) - 3))
    inner = np.ones((238, 238), bool)  # away from edges, where the image is interpolated
    for axis in (0, 1):
        for shift in (-3, -2, -1, 1, 2, 3):
            inner &= np.roll(entities, shift, axis) == entities
    np.testing.assert_array_equal(sample["image"][0].numpy()[inner], (entities * 17)[inner])


@pytest.mark.parametrize(
    ("variant", "fit", "crop"),
    [
        ("center", None, (0, 70, 480, 500)),
        ("center", "squash", (0, 70, 480, 500)),
        ("center", "crop", (0, 80, 480, 480)),
        ("alternative", "crop", (232, 201, 238, 238)),
    ],
)
def test_fit_crop_is_the_central_square_of_the_published_crop(variant: str, fit: Any, crop: tuple[int, ...]) -> None:
    data = RavensDataModule(variant=variant, fit=fit)
    assert data._crop((480, 640)) == crop
    assert data._crop((8, 8)) is None


def test_masks_and_entities_equal_the_segmentation(root: str) -> None:
    file = RavensFile(Path(root) / "ravens_robot_data_train.h5")
    assert len(file) == 18
    assert file.first_object == 4
    for index in (0, 5, 17):
        _, segm = scene(index // 3, COUNTS["train"][index // 3])
        maps = file.maps(index)
        np.testing.assert_array_equal(maps["entities"], segm[index % 3])
        np.testing.assert_array_equal(maps["mask"], np.maximum(segm[index % 3].astype(int) - 3, 0))
        assert {values.dtype for values in maps.values()} == {np.dtype(np.uint8)}
    copy = pickle.loads(pickle.dumps(file))
    np.testing.assert_array_equal(copy.maps(5)["mask"], file.maps(5)["mask"])


def test_robot_arm_with_two_labels(tmp_path: Path) -> None:
    write_ravens_file(tmp_path / "ravens_a_train.h5", [3, 5], first=5)
    file = RavensFile(tmp_path / "ravens_a_train.h5")
    assert file.first_object == 5
    assert np.unique(file.maps(0)["mask"]).tolist() == [0, 1, 2, 3]
    assert np.unique(file.maps(3)["mask"]).tolist() == [0, 1, 2, 3, 4, 5]


def test_negative_labels_are_background(small_frames: str) -> None:
    maps = RavensFile(Path(small_frames) / "ravens_a_train.h5").maps(0)
    assert maps["entities"][:2].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [0] * 8]
    assert maps["mask"][:2].tolist() == [[0, 0, 0, 0, 1, 2, 3, 4], [0] * 8]


def list_scenes(data: RavensDataModule, split: str) -> list[tuple[int, int]]:
    """List (size of the file, index in the file) of the images of a split."""
    dataset = getattr(data, f"{split}_set")
    return [(len(dataset.source), int(index)) for index in dataset.indices]


def test_splits_are_disjoint_complete_and_do_not_split_scenes(root: str) -> None:
    data = RavensDataModule(data_root=root, val_size=None)
    assert list_scenes(data, "train") == [(18, index) for index in range(18)]
    assert list_scenes(data, "val") == [(15, index) for index in range(3)]
    assert list_scenes(data, "test") == [(15, index) for index in range(3, 15)]
    data = RavensDataModule(data_root=root, val_size=None, variant="alternative")
    assert list_scenes(data, "train") == [(18, index) for index in range(0, 18, 3)]
    assert list_scenes(data, "val") == [(15, 0)]
    assert list_scenes(data, "test") == [(15, index) for index in range(3, 15, 3)]


def test_splits_of_a_single_file(root: str) -> None:
    data = RavensDataModule(data_root=f"{root}/ravens_robot_data_train.h5", val_size=None)
    assert list_scenes(data, "train") == [(18, index) for index in range(15)]
    assert list_scenes(data, "val") == [(18, index) for index in range(15, 18)]
    with pytest.raises(DatasetNotFoundError, match=r"Expected a test split .* it has train, val only"):
        data.setup("test")
    data = RavensDataModule(data_root=f"{root}/ravens_robot_data_test.h5", val_size=None)
    assert len(data.val_set) + len(data.test_set) == 15
    with pytest.raises(DatasetNotFoundError, match="Expected a train split"):
        data.setup("fit")


def test_object_counts_in_the_crop_are_cached(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # of 3, 8, 5, 4, 6, 3 objects one is outside the crop in the last view
    counts = [COUNTS["train"][index // 3] - (index % 3 == 2) for index in range(18)]
    data = RavensDataModule(data_root=root, max_objects=4)
    assert data.train_set.indices.tolist() == [i for i, count in enumerate(counts) if count <= 4]  # type: ignore[attr-defined]
    assert list(Path(root).glob("ravens_robot_data_train.h5.*.counts.cache"))
    monkeypatch.setattr(RavensFile, "_checked", None)
    assert len(RavensDataModule(data_root=root, min_objects=5).train_set) == sum(count >= 5 for count in counts)
    monkeypatch.undo()
    file = RavensFile(Path(root) / "ravens_robot_data_train.h5")
    assert file.object_counts().tolist() == [COUNTS["train"][index // 3] for index in range(18)]
    alternative = RavensDataModule(data_root=root, variant="alternative", min_objects=5)
    assert alternative.train_set.indices.tolist() == [3, 6, 12]  # type: ignore[attr-defined]


def test_images_of_other_sizes_are_not_cropped(small_frames: str) -> None:
    data = RavensDataModule(data_root=small_frames, resolution=8)
    np.testing.assert_array_equal(data.train_set[1]["image"], np.ones((3, 8, 8)))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for folder, match in ((tmp_path / "none", "none does not exist"), (tmp_path, "found neither at .*download")):
        with pytest.raises(DatasetNotFoundError, match=match):
            RavensDataModule(data_root=str(folder)).setup("fit")
    for name in ("ravens_a_train.h5", "ravens_b_train.h5"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"one file ravens_\*_train\.h5 in .*, but got ravens_a_train\.h5, ravens_b"):
        RavensDataModule(data_root=str(tmp_path)).setup("fit")


def test_truncated_and_other_files_are_refused(tmp_path: Path, small_frames: str) -> None:
    content = (Path(small_frames) / "ravens_a_train.h5").read_bytes()
    path = tmp_path / "ravens_a_train.h5"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match="expected a whole HDF5 file of RAVENS"):
        RavensDataModule(data_root=str(tmp_path)).setup("fit")
    path.write_bytes(content)
    with h5py.File(path, "a") as file:
        del file["segm"]
    with pytest.raises(CorruptFileError, match="no dataset `segm`"):
        RavensDataModule(data_root=str(tmp_path)).setup("fit")
    for segm in (np.zeros((5, 8, 8), np.uint8), np.zeros((6, 8, 9), np.uint8)):
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            del file["segm"]
            file["segm"] = segm
        with pytest.raises(CorruptFileError, match="expected 3 images with a label map for each scene"):
            RavensDataModule(data_root=str(tmp_path)).setup("fit")


def test_labels_out_of_range_are_refused(tmp_path: Path, small_frames: str) -> None:
    path = tmp_path / "ravens_a_train.h5"
    path.write_bytes((Path(small_frames) / "ravens_a_train.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file["segm"][1, 0, 7] = 256
    with pytest.raises(CorruptFileError, match="expected `segm` to hold -1 to 255, but got 0 to 256 in row 1"):
        RavensFile(path).maps(1)


def test_too_few_scenes_are_refused(tmp_path: Path) -> None:
    write_ravens_file(tmp_path / "ravens_a_train.h5", [3])
    with pytest.raises(
        UserError, match=r"Expected at least 2 scenes in ravens_a_train\.h5 to split into train and val"
    ):
        RavensDataModule(data_root=str(tmp_path)).setup("fit")
