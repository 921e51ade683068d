"""Pascal VOC: images, label maps and splits of the published layout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from object_discovery.data.datasets.voc import VOCDataModule, VOCSource
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from tests.data.layouts.voc import EXTRA, TRAIN, VAL, labels_of, write_voc

LISTS = Path("ImageSets", "Segmentation")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder VOC2012."""
    return write_voc(tmp_path) / "VOCdevkit" / "VOC2012"


def make_data(root: Path, **settings: Any) -> VOCDataModule:
    return VOCDataModule(data_root=str(root), resolution=20, num_workers=0, batch_size=4, **settings)


def image_names(datamodule: VOCDataModule) -> dict[str, list[str]]:
    return {
        name: list(split.source.names)
        for name, split in datamodule.splits.items()
        if isinstance(split.source, VOCSource)
    }


def test_images_and_label_maps_equal_the_files(root: Path) -> None:
    source = VOCSource(root, VAL, fit="squash")
    for index, name in enumerate(VAL):
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as image:
            np.testing.assert_array_equal(source.image(index), np.asarray(image))
        instances, classes = labels_of(len(TRAIN) + len(EXTRA) + index)
        maps = source.maps(index)
        np.testing.assert_array_equal(maps["mask"], instances)
        np.testing.assert_array_equal(maps["classes"], classes)
        assert (maps["mask"] == 255).any()
        assert maps["mask"].dtype == maps["classes"].dtype == np.uint8


def test_images_are_cropped_to_the_central_square(root: Path) -> None:
    squashed, cropped = VOCSource(root, VAL, fit="squash"), VOCSource(root, VAL)
    np.testing.assert_array_equal(cropped.image(0), squashed.image(0)[3:23])
    np.testing.assert_array_equal(cropped.maps(1)["mask"], squashed.maps(1)["mask"][:, 5:25])


@pytest.mark.parametrize("folder", [".", "..", "../.."])
def test_splits_are_disjoint_and_complete(root: Path, folder: str) -> None:
    split_names = image_names(make_data(root / folder))
    assert split_names == {"train": TRAIN[:7] + EXTRA, "val": TRAIN[7:], "test": VAL}
    assert all(len(split.indices) == len(split_names[name]) for name, split in make_data(root).splits.items())


def test_split_rules_name_the_lists(root: Path) -> None:
    rules = {name: split.rule for name, split in make_data(root).splits.items()}
    assert rules == {
        "train": "trainaug.txt without the last image of trainaug.txt with instances",
        "val": "the last image of trainaug.txt with instances",
        "test": "the whole of val.txt",
    }
    (root / LISTS / "trainaug.txt").unlink()
    splits = make_data(root)
    assert image_names(splits) == {"train": TRAIN[:7], "val": TRAIN[7:], "test": VAL}
    assert splits.splits["val"].rule == "the last image of train.txt with instances"


def test_training_split_excludes_test_images(root: Path) -> None:
    (root / LISTS / "trainaug.txt").write_text("\n".join([*TRAIN, *EXTRA, *VAL]))
    split_names = image_names(make_data(root))
    assert not set(split_names["test"]) & {*split_names["train"], *split_names["val"]}


def test_lists_may_contain_paths(root: Path) -> None:
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in TRAIN]
    (root / LISTS / "trainaug.txt").write_text("\n".join(lines) + "\n\n")
    assert image_names(make_data(root))["train"] == TRAIN[:7]


def test_missing_lists_drop_splits(root: Path) -> None:
    (root / LISTS / "val.txt").unlink()
    assert list(image_names(make_data(root))) == ["train", "val"]
    for name in ("trainaug", "train"):
        (root / LISTS / f"{name}.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"Expected trainaug\.txt, train\.txt or val\.txt in .*Segmentation"):
        make_data(root).setup()
    (root / LISTS / "val.txt").write_text("\n".join(VAL))
    assert list(image_names(make_data(root))) == ["test"]


def test_label_maps_of_images_without_instances_are_ignored(root: Path) -> None:
    source = make_data(root).splits["train"].source
    for index, name in enumerate(EXTRA, start=7):
        maps = source.maps(index)
        assert maps["mask"].shape == source.image(index).shape[:2]
        assert (maps["mask"] == 255).all()
        known = name in EXTRA[:2]
        assert (maps["classes"] == 255).all() != known
        assert (maps["classes"] == 11).any() == known


def test_batches_have_the_same_keys(root: Path) -> None:
    batches = list(make_data(root).train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert set(batch) == {"image", "mask", "classes"}
        assert batch["image"].shape == (4, 3, 20, 20)
        assert batch["mask"].shape == batch["classes"].shape == (4, 20, 20)
        assert all(value.dtype == torch.uint8 for value in batch.values())


def test_object_limits_count_objects_in_the_crop(root: Path) -> None:
    source = make_data(root).splits["train"].source
    assert source.object_counts().tolist() == [1, 2, 1, 2, 1, 2, 1, 0, 0, 0, 0]
    assert len(make_data(root, min_objects=2).train_set) == 3
    assert len(make_data(root, min_objects=1, max_objects=1).train_set) == 4
    instances, _ = labels_of(1)
    instances[:] = 0
    instances[3, 0] = 1
    Image.fromarray(instances).save(root / "SegmentationObject" / f"{TRAIN[1]}.png")
    assert make_data(root).splits["train"].source.object_counts().tolist()[:3] == [1, 0, 1]
    assert make_data(root, fit="squash").splits["train"].source.object_counts().tolist()[:3] == [1, 1, 1]


def test_sources_can_be_pickled(root: Path) -> None:
    source = VOCSource(root, VAL)
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied.image(0), source.image(0))


def test_missing_files_are_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be the folder VOC2012"):
        make_data(tmp_path_factory.mktemp("empty")).setup()
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be the file or folder of voc"):
        VOCDataModule().setup()
    (root / "SegmentationObject" / f"{VAL[0]}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"No such file: .*SegmentationObject.{VAL[0]}\.png"):
        make_data(root).test_set[0]
    (root / "SegmentationClass" / f"{VAL[1]}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"No such file: .*SegmentationClass.{VAL[1]}\.png"):
        make_data(root).test_set[1]
    (root / "JPEGImages" / f"{VAL[2]}.jpg").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"No such file: .*{VAL[2]}\.jpg"):
        make_data(root).test_set[2]


def test_unreadable_lists_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / LISTS / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFileError, match=r"val\.txt: expected a list of images"):
        make_data(root).setup()

    def raise_permission_error(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", raise_permission_error)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*trainaug\.txt: permission denied"):
        make_data(root).setup()


def test_damaged_and_other_files_are_refused(root: Path) -> None:
    path = root / "SegmentationObject" / f"{VAL[0]}.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=rf"{VAL[0]}\.png: expected a whole image"):
        make_data(root).test_set[0]
    Image.new("RGB", (20, 26)).save(path)
    with pytest.raises(CorruptFileError, match=rf"{VAL[0]}\.png: expected labels of 0 to 255 in one channel"):
        make_data(root).test_set[0]
    Image.new("L", (20, 25)).save(path)
    with pytest.raises(CorruptFileError, match=rf"{VAL[0]}\.png: expected 26 x 20 pixels, as its image has"):
        make_data(root).test_set[0]
    (root / "JPEGImages" / f"{VAL[1]}.jpg").write_text("no image")
    with pytest.raises(CorruptFileError, match=rf"{VAL[1]}\.jpg: expected a whole image"):
        make_data(root).test_set[1]
