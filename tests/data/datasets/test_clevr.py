import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from object_discovery.data.datasets.clevr import CLEVRDataModule, central_crop
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.clevr import HEIGHT, SIZES, WIDTH, make_scene, write_clevr, write_scenes_file

SPLITS = tuple(SIZES)
CROP = (3, 11, 25, 25)  # the central square of 0.8 * 32 pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_clevr(tmp_path)


def load(root: Path, **settings: Any) -> CLEVRDataModule:
    return CLEVRDataModule(data_root=str(root), **{"resolution": 25, "val_size": None, "num_workers": 0, **settings})


def read_image(root: Path, split: str, number: int) -> np.ndarray[Any, Any]:
    with Image.open(root / "images" / split / f"CLEVR_{split}_{number:06d}.png") as image:
        assert image.mode == "RGBA"
        return np.array(image)[..., :3]


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_cropped_to_the_centre(root: Path, split: str) -> None:
    scenes = getattr(load(root), f"{split}_set")
    assert len(scenes) == SIZES[split]
    top, left, height, width = CROP
    for number in range(SIZES[split]):
        image = scenes[number]["image"].numpy()
        assert image.dtype == np.uint8
        expected = read_image(root, split, number)[top : top + height, left : left + width]
        np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))


def test_crop_of_published_images() -> None:
    assert central_crop((320, 480)) == (32, 112, 256, 256)


def test_fit_squash_resizes_the_whole_image(root: Path) -> None:
    scene = load(root, fit="squash", resolution=16).train_set[2]
    # bilinear without antialiasing: the mean of two rows, and the second of every three columns
    image = read_image(root, "train", 2)[:, 1::3].astype(float)
    expected = (image[0::2] + image[1::2]) / 2
    assert scene["image"].shape == (3, 16, 16)
    np.testing.assert_allclose(scene["image"], expected.transpose(2, 0, 1), atol=0.5)


@pytest.mark.parametrize("split", ["train", "val"])
def test_objects_equal_the_annotations(root: Path, split: str) -> None:
    scenes = json.loads((root / "scenes" / f"CLEVR_{split}_scenes.json").read_text())["scenes"]
    batch = getattr(load(root), f"{split}_set")[list(range(SIZES[split]))]
    objects = batch["objects"].numpy()
    assert (objects.dtype, objects.shape) == (np.float32, (SIZES[split], 10, 19))
    assert objects.min() >= 0
    assert objects.max() <= 1
    for rows, scene in zip(objects, scenes, strict=True):
        assert rows[:, 18].sum() == len(scene["objects"])
        for row, annotation in zip(rows, scene["objects"], strict=False):
            np.testing.assert_allclose(6 * row[:3] - 3, annotation["3d_coords"], atol=1e-5)
            assert row[3:5].argmax() == ["large", "small"].index(annotation["size"])
            assert row[5:7].argmax() == ["rubber", "metal"].index(annotation["material"])
            assert row[7:10].argmax() == ["cube", "sphere", "cylinder"].index(annotation["shape"])
            colours = ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]
            assert row[10:18].argmax() == colours.index(annotation["color"])


def test_batches_without_annotations_have_no_objects(root: Path) -> None:
    data = load(root)
    assert data.test_set[0].keys() == {"image"}
    assert data.train_set[[0, 1]].keys() == {"image", "objects"}
    assert not data.has_masks
    (root / "scenes" / "CLEVR_train_scenes.json").unlink()
    assert load(root).train_set[0].keys() == {"image"}


def test_splits_are_read_from_the_folders(root: Path) -> None:
    data = load(root)
    for split in SPLITS:
        source, indices, rule = data.splits[split]
        assert [source.image(int(i))[0, 0].tolist() for i in indices] == [
            read_image(root, split, number)[0, 0].tolist() for number in range(SIZES[split])
        ]
        assert rule == f"the whole of images/{split}; published are {70 if split == 'train' else 15},000"
    assert "CLEVR_v1.0, PNG files" in data.describe()


def test_data_root_may_be_the_parent_folder(root: Path) -> None:
    assert len(load(root.parent).train_set) == SIZES["train"]


def test_object_limits_count_objects_with_their_centre_in_the_crop(root: Path) -> None:
    scenes = json.loads((root / "scenes" / "CLEVR_train_scenes.json").read_text())["scenes"]
    # a tenth of the size: the crop is rows 30 to 279 and columns 110 to 359 of the published frame
    centres = [[o["pixel_coords"][:2] for o in scene["objects"]] for scene in scenes]
    counts = np.array([sum(110 <= x < 360 and 30 <= y < 280 for x, y in points) for points in centres])
    counts_in_frame = np.array([len(points) for points in centres])
    assert (counts != counts_in_frame).any()
    source = load(root).splits["train"].source
    np.testing.assert_array_equal(source.object_counts(CROP), counts)
    np.testing.assert_array_equal(source.object_counts(), counts_in_frame)
    for settings, expected in (({}, counts), ({"fit": "squash"}, counts_in_frame)):
        selected = np.flatnonzero((expected >= 2) & (expected <= 5))
        data = load(root, min_objects=2, max_objects=5, **settings)
        assert len(data.train_set) == len(selected) > 0
        presence = data.train_set[list(range(len(selected)))]["objects"][:, :, 18].sum(1)
        np.testing.assert_array_equal(presence, counts_in_frame[selected])


def test_object_limits_are_refused_for_the_test_split(root: Path) -> None:
    with pytest.raises(UserError, match=r"limits on the objects of the test split.*`eval_max_objects` 0"):
        load(root, max_objects=6).setup("test")
    assert len(load(root, max_objects=6, eval_max_objects=0).test_set) == SIZES["test"]


def test_annotations_may_be_unordered_and_of_missing_images(root: Path) -> None:
    path = root / "scenes" / "CLEVR_train_scenes.json"
    expected = load(root).train_set[4]["objects"]
    write_scenes_file(path, json.loads(path.read_text())["scenes"][::-1])
    (root / "images" / "train" / "CLEVR_train_000001.png").unlink()
    scenes = load(root).train_set
    assert len(scenes) == SIZES["train"] - 1
    np.testing.assert_array_equal(scenes[3]["objects"], expected)
    assert load(root, max_objects=10).train_set.size == len(scenes)


def test_sources_can_be_pickled(root: Path) -> None:
    source = load(root).splits["train"].source
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(3), source.image(3))
    np.testing.assert_array_equal(copy.targets(3)["objects"], source.targets(3)["objects"])


def test_other_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"`data_root` to be the folder CLEVR_v1.0 .* has no folder `images`"
    ):
        load(tmp_path).setup("fit")
    with pytest.raises(DatasetNotFoundError, match=r"has no folder `images`; download it by"):
        load(tmp_path / "missing").setup("fit")
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "photograph.png").write_bytes(b"")
    with pytest.raises(
        DatasetNotFoundError, match=r"images as CLEVR_train_000000.png in .*images/train, but found none"
    ):
        load(tmp_path).setup("fit")
    with pytest.raises(
        DatasetNotFoundError,
        match=r"`data_root` to be the file or folder of clevr, but got None.*download clevr",
    ):
        CLEVRDataModule().setup("fit")


def test_missing_split_is_refused(root: Path) -> None:
    for path in (root / "images" / "test").iterdir():
        path.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"Expected a test split in .*, but it has train, val only"):
        load(root).setup("test")


def test_images_without_annotations_are_refused(root: Path) -> None:
    write_scenes_file(root / "scenes" / "CLEVR_val_scenes.json", [make_scene("val", number, 3) for number in (0, 1, 4)])
    message = r"CLEVR_val_scenes.json: .* none for 2 of 5, such as CLEVR_val_000002.png: unpack the archive again"
    with pytest.raises(CorruptFileError, match=message):
        load(root).setup("fit")


def test_damaged_images_are_refused(root: Path) -> None:
    path = root / "images" / "train" / "CLEVR_train_000003.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    data = load(root)
    with pytest.raises(CorruptFileError, match=re.escape(f"{path}: expected a whole image")):
        data.train_set[3]
    path.unlink()
    with pytest.raises(DatasetNotFoundError, match=re.escape(str(path))):
        data.train_set[3]
    Image.new("RGBA", (WIDTH, HEIGHT - 1)).save(path)
    message = f"{path}: expected 32 x 48 pixels as in the first scene, but got 31 x 48"
    with pytest.raises(CorruptFileError, match=re.escape(message)):
        data.train_set[[2, 3]]
