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


def data(root: Path, **settings: Any) -> VOCDataModule:
    return VOCDataModule(data_root=str(root), resolution=20, num_workers=0, batch_size=4, **settings)


def names(data: VOCDataModule) -> dict[str, list[str]]:
    return {
        name: list(split.source.names) for name, split in data.splits.items() if isinstance(split.source, VOCSource)
    }


def test_images_and_label_maps(root: Path) -> None:
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


def test_the_central_square_is_cut_out(root: Path) -> None:
    whole, square = VOCSource(root, VAL, fit="squash"), VOCSource(root, VAL)
    np.testing.assert_array_equal(square.image(0), whole.image(0)[3:23])
    np.testing.assert_array_equal(square.maps(1)["mask"], whole.maps(1)["mask"][:, 5:25])


@pytest.mark.parametrize("folder", [".", "..", "../.."])
def test_splits_are_disjoint_and_complete(root: Path, folder: str) -> None:
    split_names = names(data(root / folder))
    assert split_names == {"train": TRAIN[:7] + EXTRA, "val": TRAIN[7:], "test": VAL}
    assert all(len(split.indices) == len(split_names[name]) for name, split in data(root).splits.items())


def test_rules_say_which_lists(root: Path) -> None:
    rules = {name: split.rule for name, split in data(root).splits.items()}
    assert rules == {
        "train": "trainaug.txt without the last image of trainaug.txt with instances",
        "val": "the last image of trainaug.txt with instances",
        "test": "the whole of val.txt",
    }
    (root / LISTS / "trainaug.txt").unlink()
    splits = data(root)
    assert names(splits) == {"train": TRAIN[:7], "val": TRAIN[7:], "test": VAL}
    assert splits.splits["val"].rule == "the last image of train.txt with instances"


def test_test_images_never_train(root: Path) -> None:
    (root / LISTS / "trainaug.txt").write_text("\n".join([*TRAIN, *EXTRA, *VAL]))
    split_names = names(data(root))
    assert not set(split_names["test"]) & {*split_names["train"], *split_names["val"]}


def test_lists_of_paths(root: Path) -> None:
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in TRAIN]
    (root / LISTS / "trainaug.txt").write_text("\n".join(lines) + "\n\n")
    assert names(data(root))["train"] == TRAIN[:7]


def test_without_some_lists(root: Path) -> None:
    (root / LISTS / "val.txt").unlink()
    assert list(names(data(root))) == ["train", "val"]
    for name in ("trainaug", "train"):
        (root / LISTS / f"{name}.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"Expected trainaug\.txt, train\.txt or val\.txt in .*Segmentation"):
        data(root).setup()
    (root / LISTS / "val.txt").write_text("\n".join(VAL))
    assert list(names(data(root))) == ["test"]


def test_images_without_instances_train_with_everything_ignored(root: Path) -> None:
    source = data(root).splits["train"].source
    for index, name in enumerate(EXTRA, start=7):
        maps = source.maps(index)
        assert maps["mask"].shape == source.image(index).shape[:2]
        assert (maps["mask"] == 255).all()
        known = name in EXTRA[:2]
        assert (maps["classes"] == 255).all() != known
        assert (maps["classes"] == 11).any() == known


def test_batches_have_the_same_keys(root: Path) -> None:
    batches = list(data(root).train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert set(batch) == {"image", "mask", "classes"}
        assert batch["image"].shape == (4, 3, 20, 20)
        assert batch["mask"].shape == batch["classes"].shape == (4, 20, 20)
        assert all(value.dtype == torch.uint8 for value in batch.values())


def test_filters_count_objects_after_the_crop(root: Path) -> None:
    source = data(root).splits["train"].source
    assert source.object_counts().tolist() == [1, 2, 1, 2, 1, 2, 1, 0, 0, 0, 0]
    assert len(data(root, min_objects=2).train_set) == 3
    assert len(data(root, min_objects=1, max_objects=1).train_set) == 4
    instances, _ = labels_of(1)
    instances[:] = 0
    instances[3, 0] = 1
    Image.fromarray(instances).save(root / "SegmentationObject" / f"{TRAIN[1]}.png")
    assert data(root).splits["train"].source.object_counts().tolist()[:3] == [1, 0, 1]
    assert data(root, fit="squash").splits["train"].source.object_counts().tolist()[:3] == [1, 1, 1]


def test_sources_are_small_to_send(root: Path) -> None:
    source = VOCSource(root, VAL)
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied.image(0), source.image(0))


def test_missing_files(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be the folder VOC2012"):
        data(tmp_path_factory.mktemp("empty")).setup()
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be the place of voc"):
        VOCDataModule().setup()
    (root / "SegmentationObject" / f"{VAL[0]}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"No such file: .*SegmentationObject.{VAL[0]}\.png"):
        data(root).test_set[0]
    (root / "SegmentationClass" / f"{VAL[1]}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"No such file: .*SegmentationClass.{VAL[1]}\.png"):
        data(root).test_set[1]
    (root / "JPEGImages" / f"{VAL[2]}.jpg").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"No such file: .*{VAL[2]}\.jpg"):
        data(root).test_set[2]


def test_lists_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / LISTS / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFileError, match=r"val\.txt: expected a list of images"):
        data(root).setup()

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*trainaug\.txt: permission denied"):
        data(root).setup()


def test_damaged_and_foreign_files(root: Path) -> None:
    path = root / "SegmentationObject" / f"{VAL[0]}.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=rf"{VAL[0]}\.png: expected a whole image"):
        data(root).test_set[0]
    Image.new("RGB", (20, 26)).save(path)
    with pytest.raises(CorruptFileError, match=rf"{VAL[0]}\.png: expected labels of 0 to 255 in one channel"):
        data(root).test_set[0]
    Image.new("L", (20, 25)).save(path)
    with pytest.raises(CorruptFileError, match=rf"{VAL[0]}\.png: expected 26 x 20 pixels, as its image has"):
        data(root).test_set[0]
    (root / "JPEGImages" / f"{VAL[1]}.jpg").write_text("no image")
    with pytest.raises(CorruptFileError, match=rf"{VAL[1]}\.jpg: expected a whole image"):
        data(root).test_set[1]
