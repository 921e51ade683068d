import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from object_discovery.data.datasets import shapes3d
from object_discovery.data.datasets.shapes3d import FACTORS, Shapes3DDataModule, Shapes3DFile
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.shapes3d import SIZE, images_and_factors, write_shapes3d


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "object_discovery"


def test_images_and_factors_equal_the_file(tmp_path: Path) -> None:
    images, factors = images_and_factors()
    data = Shapes3DDataModule(data_root=str(write_shapes3d(tmp_path)), batch_size=5, num_workers=0, val_size=None)
    assert not data.has_masks
    batch = next(iter(data.val_dataloader()))
    assert batch.keys() == {"image", "factors"}
    np.testing.assert_array_equal(batch["image"], images[80:83].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["factors"], factors[80:83].astype(np.float32))
    assert batch["factors"].shape == (3, len(FACTORS))


def test_splits_of_a_smaller_file_are_proportional_disjoint_and_complete(tmp_path: Path) -> None:
    images, _ = images_and_factors()
    data = Shapes3DDataModule(data_root=str(write_shapes3d(tmp_path)), val_size=None)
    sets = (data.train_set, data.val_set, data.test_set)
    assert [len(split) for split in sets] == [80, 6, 6]
    corners = [int(split[index]["image"][0, 0, 0]) for split in sets for index in range(len(split))]
    assert corners == images[:, 0, 0, 0].tolist() == list(range(SIZE))


def test_published_splits() -> None:
    for size in (460_000, 480_000):
        ends, rule = shapes3d._split_ends(size)
        assert ends == {"train": 400_000, "val": 430_000, "test": 460_000}
        assert "as published" in rule
    for size in (3, 4, 45, 46, 47, 459_999):
        ends, _ = shapes3d._split_ends(size)
        train, val, test = np.diff([0, *ends.values()])
        assert train + val + test == size
        assert val == test >= 1
        assert train >= 1
        assert size < 46 or abs(train / val - 40 / 3) < 1.4
    with pytest.raises(UserError, match="at least 3 images of 3D Shapes to split, but got 2"):
        shapes3d._split_ends(2)


def test_file_with_large_chunks_is_rechunked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, factors = images_and_factors()
    path = write_shapes3d(tmp_path) / "3dshapes.h5"
    for may_write in (True, False):
        with monkeypatch.context() as patch:
            if not may_write:
                patch.setattr(shapes3d, "deflate", None)  # cannot be called
            file = Shapes3DFile(path)
            np.testing.assert_array_equal([file.image(index) for index in (5, 91, 0)], images[[5, 91, 0]])
            file.close()
    (copy,) = tmp_path.glob("3dshapes.h5.*.images.cache")
    with h5py.File(copy) as opened:
        assert opened["images"].chunks == (1, 64, 64, 3)
        np.testing.assert_array_equal(opened["images"][:], images)
        np.testing.assert_array_equal(opened["labels"][:], factors)
    copy.write_bytes(copy.read_bytes()[:5000])
    np.testing.assert_array_equal(Shapes3DFile(path).image(7), images[7])
    assert len(Shapes3DDataModule(data_root=str(tmp_path)).train_set) == 80  # the copy is not mistaken for the dataset


def test_file_with_small_chunks_is_read_directly(tmp_path: Path) -> None:
    images, factors = images_and_factors(10)
    for name, chunks in (("a", (8, 64, 64, 3)), ("b", (1, 32, 32, 1))):
        folder = tmp_path / name
        folder.mkdir()
        with h5py.File(folder / "mine.h5", "w") as file:
            file.create_dataset("images", data=images, chunks=chunks, compression="gzip")
            file["labels"] = factors
        data = Shapes3DDataModule(data_root=str(folder / "mine.h5"))
        np.testing.assert_array_equal(data.test_set[0]["image"], images[9].transpose(2, 0, 1))
        assert [path.name for path in folder.iterdir()] == ["mine.h5"]


def test_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shapes3d(tmp_path) / "3dshapes.h5"

    def raise_disk_full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", raise_disk_full)
    with pytest.raises(UserError, match=r"Expected room for a copy of .*3dshapes\.h5, .*set XDG_CACHE_HOME"):
        Shapes3DFile(path).image(0)
    assert [path_left.name for path_left in tmp_path.iterdir()] == ["3dshapes.h5"]


def test_every_image_has_one_object(tmp_path: Path) -> None:
    root = str(write_shapes3d(tmp_path))
    assert len(Shapes3DDataModule(data_root=root, max_objects=1, min_objects=1).train_set) == 80
    with pytest.raises(UserError, match="found none"):
        Shapes3DDataModule(data_root=root, min_objects=2).setup("fit")


def test_sources_can_be_pickled(tmp_path: Path) -> None:
    images, factors = images_and_factors()
    file = Shapes3DFile(write_shapes3d(tmp_path) / "3dshapes.h5")
    for source in (file, pickle.loads(pickle.dumps(file))):
        np.testing.assert_array_equal(source.image(3), images[3])
        np.testing.assert_array_equal(source.targets(3)["factors"], factors[3].astype(np.float32))
        assert source.targets(3)["factors"].dtype == np.float32


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"to hold 3dshapes\.h5, but .*none does not exist"):
        Shapes3DDataModule(data_root=str(tmp_path / "none")).setup("fit")
    with pytest.raises(DatasetNotFoundError, match=r"holds no HDF5 file: .*download"):
        Shapes3DDataModule(data_root=str(tmp_path)).setup("fit")
    (tmp_path / "a.h5").touch()
    (tmp_path / "b.h5").touch()
    with pytest.raises(DatasetNotFoundError, match=r"holds a\.h5, b\.h5"):
        Shapes3DDataModule(data_root=str(tmp_path)).setup("fit")
    with pytest.raises(DatasetNotFoundError, match="but got None"):
        Shapes3DDataModule().setup("fit")


def test_truncated_and_other_files_are_refused(tmp_path: Path) -> None:
    path = write_shapes3d(tmp_path) / "3dshapes.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match="expected a whole HDF5 file of 3D Shapes"):
        Shapes3DDataModule(data_root=str(tmp_path)).setup("fit")
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((5, 64, 64, 3), np.uint8)
    with pytest.raises(CorruptFileError, match=r"expected 3D Shapes with `images` as uint8 .*no dataset `images`"):
        Shapes3DDataModule(data_root=str(tmp_path)).setup("fit")
    with h5py.File(path, "w") as file:
        file["images"], file["labels"] = np.zeros((5, 64, 64, 3), np.uint8), np.zeros((4, 6))
    with pytest.raises(CorruptFileError, match="expected labels for every image, but got 5 images and 4 labels"):
        Shapes3DDataModule(data_root=str(tmp_path)).setup("fit")
