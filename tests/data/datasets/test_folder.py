"""Folders of images: listing, splits and label maps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from object_discovery.data.datasets.folder import FolderDataModule, FolderSource
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.folder import scene, write_folder, write_images

ORDER = [1, 3, 5, 7, 9, 11, 13, 0, 2, 4, 6, 8, 10, 12]
"""The scenes of `write_folder` in sorted order: `01.jpg` before `b/00.png`."""


def make_data(root: Path, **settings: Any) -> FolderDataModule:
    return FolderDataModule(data_root=str(root), resolution=16, num_workers=0, batch_size=4, **settings)


def test_images_and_label_maps_equal_the_files(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    source = FolderSource(root / "images", root / "masks", fit="squash")
    assert len(source) == 14
    for index, number in enumerate(ORDER):
        pixels, labels = scene(number)
        if number % 2 == 0:
            np.testing.assert_array_equal(source.image(index), pixels)
        assert source.image(index).shape == (16, 24, 3)
        np.testing.assert_array_equal(source.maps(index)["mask"], labels)


def test_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    splits = make_data(write_folder(tmp_path)).splits
    assert np.concatenate([splits[name].indices for name in ("train", "val", "test")]).tolist() == list(range(14))
    assert [len(splits[name].indices) for name in ("train", "val", "test")] == [10, 2, 2]
    assert splits["train"].rule == "in file order, 70 / 15 / 15 % to train, validate and test"


def test_images_are_cropped_to_the_central_square(tmp_path: Path) -> None:
    datamodule = make_data(write_folder(tmp_path))
    assert datamodule.has_masks
    (batch,) = datamodule.test_dataloader()
    assert set(batch) == {"image", "mask"}
    for index, number in enumerate(ORDER[-2:]):
        pixels, labels = scene(number)
        assert torch.equal(batch["image"][index].permute(1, 2, 0), torch.from_numpy(pixels[:, 4:20].copy()))
        assert torch.equal(batch["mask"][index], torch.from_numpy(labels[:, 4:20].copy()))
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8


def test_folder_without_label_maps(tmp_path: Path) -> None:
    write_images(tmp_path / "some", 6)
    write_images(tmp_path, 3, first=6)
    datamodule = make_data(tmp_path)
    assert not datamodule.has_masks
    assert [len(datamodule.splits[name].indices) for name in ("train", "val", "test")] == [7, 1, 1]
    (batch,) = datamodule.val_dataloader()
    assert set(batch) == {"image"}
    assert batch["image"].shape == (1, 3, 16, 16)


def test_label_maps_in_a_subfolder_of_the_images(tmp_path: Path) -> None:
    write_images(tmp_path, 5, tmp_path / "masks")
    source = make_data(tmp_path).splits["train"].source
    assert len(source) == 5
    np.testing.assert_array_equal(source.maps(1)["mask"], scene(3)[1][:, 4:20])


def test_splits_by_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "images", 6, tmp_path / "train" / "masks")
    write_images(tmp_path / "val", 2)
    write_images(tmp_path / "test" / "images", 3, tmp_path / "test" / "masks")
    datamodule = make_data(tmp_path)
    assert {name: len(split.indices) for name, split in datamodule.splits.items()} == {"train": 6, "val": 2, "test": 3}
    assert [set(datamodule._split(name)[0]) for name in ("train", "val", "test")] == [
        {"image", "mask"},
        {"image"},
        {"image", "mask"},
    ]
    assert not datamodule.has_masks


def test_validation_split_of_the_training_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 7)
    splits = make_data(tmp_path).splits
    assert {name: split.indices.tolist() for name, split in splits.items()} == {"train": [*range(6)], "val": [6]}
    assert splits["val"].rule == "the last 15 % of train"
    with pytest.raises(DatasetNotFoundError, match=r"Expected a test split in .*, but it has train, val only"):
        make_data(tmp_path).setup("test")


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    write_images(tmp_path / ".hidden", 4)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "._01.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "z.JPEG")
    source = FolderSource(tmp_path)
    assert source.names == ["01.jpg", "03.jpg", "b/00.png", "b/02.png", "z.JPEG"]


def test_exif_orientation_is_applied_to_the_image_only(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "masks").mkdir()
    pixels, labels = scene(1)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.rot90(labels, 3)).save(tmp_path / "masks" / "a.png")
    source = FolderSource(tmp_path, tmp_path / "masks", fit="squash")
    assert source.image(0).shape == (24, 16, 3)
    assert source.maps(0)["mask"].shape == (24, 16)


def test_object_limits_count_objects_in_the_crop(tmp_path: Path) -> None:
    datamodule = make_data(write_folder(tmp_path), min_objects=2)
    assert datamodule.splits["train"].source.object_counts().tolist() == [number % 3 for number in ORDER]
    assert len(datamodule.train_set) == sum(number % 3 == 2 for number in ORDER[:10])
    labels = np.zeros((16, 24), np.uint8)
    labels[0, 3], labels[0, 4], labels[0, 5] = 1, 2, 255
    Image.fromarray(labels).save(tmp_path / "masks" / "01.png")
    os.utime(tmp_path / "masks" / "01.png", ns=(1, 1))
    assert make_data(tmp_path).splits["train"].source.object_counts()[0] == 1


def test_object_limits_need_label_maps(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    with pytest.raises(UserError, match=r"Expected label maps of .* to count objects in, but found none"):
        make_data(tmp_path, max_objects=3).setup()


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"to be a folder of images, but .* does not exist"):
        make_data(tmp_path / "nowhere").setup()
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be the file or folder of folder"):
        FolderDataModule().setup()
    with pytest.raises(DatasetNotFoundError, match=r"Expected images in .*, but found none"):
        make_data(tmp_path).setup()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DatasetNotFoundError, match=r"to be a folder of images, but .*a\.txt is a file"):
        make_data(tmp_path / "a.txt").setup()
    root = write_folder(tmp_path)
    (root / "masks" / "07.png").unlink()
    (root / "masks" / "b" / "04.png").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"Expected the label map of .*images.07\.jpg in .*masks.07\.png, but"
    ):
        make_data(root).setup()


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "some", 2)
    with pytest.raises(UserError, match="Expected at least 3 scenes to split"):
        make_data(tmp_path / "some").setup()
    write_images(tmp_path / "named" / "train", 1)
    with pytest.raises(UserError, match=r"Expected at least 2 images in .*train, some to validate, but got 1"):
        make_data(tmp_path / "named").setup()


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    image, mask = root / "images" / "01.jpg", root / "masks" / "03.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=r"01\.jpg: expected a whole image"):
        make_data(root).train_set[0]
    image.write_bytes(content)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)).save(mask)
    with pytest.raises(CorruptFileError, match=r"03\.png: expected at most 254 objects in an image, but got"):
        make_data(root).train_set[1]
    Image.new("L", (16, 24)).save(mask)
    with pytest.raises(CorruptFileError, match=r"03\.png: expected 16 x 24 pixels, as its image has, but got 24 x 16"):
        make_data(root).train_set[1]
    mask.write_text("no image")
    with pytest.raises(CorruptFileError, match=r"03\.png: expected a whole image"):
        make_data(root).train_set[1]


def test_black_and_white_masks_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    for path in sorted((root / "masks").rglob("*.png")):
        labels = scene(int(path.stem))[1]
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=r"masks to number the objects from 1, but .* 255 only.*: write 1 in place"):
        FolderDataModule(data_root=str(root)).setup("fit")
    Image.fromarray(scene(1)[1]).save(root / "masks" / "01.png")
    FolderDataModule(data_root=str(root)).setup("fit")
