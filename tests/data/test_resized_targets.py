from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transforms

from object_discovery import COCODataModule, VOCDataModule
from object_discovery.data.dataset import StoredScenes
from object_discovery.data.geometry import resize_labels
from object_discovery.data.resized_targets import ResizedTargetDataset
from tests.data.layouts.clevrtex import write_clevrtex
from tests.data.layouts.coco import annotate, polygon, run_lengths, write_coco
from tests.data.layouts.voc import write_voc


@pytest.mark.parametrize("size", [(7, 11), (5, 5), (320, 481), (1, 1)])
def test_labels_are_resized_as_torch_does(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    expected = F.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest-exact")[0, 0]
    np.testing.assert_array_equal(resize_labels(labels, size), expected.numpy())


@pytest.mark.parametrize("size", [(50, 33), (31, 47), (40, 40)])
def test_squares_are_those_of_torchvision(size: tuple[int, int], tmp_path: Path) -> None:
    """Resize the short side to the nearest pixel, then cut out the centre."""
    scenes = COCODataModule(data_root=str(write_coco(tmp_path)), num_workers=0, resolution=16).test_set
    assert isinstance(scenes, StoredScenes)
    labels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    tensor = torch.from_numpy(labels)[None]
    for side in (32, 80):
        resized = transforms.resize(tensor, [side], transforms.InterpolationMode.NEAREST_EXACT)
        expected = transforms.center_crop(resized, [side])[0]
        found = scenes.source._resized(labels, side)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(found, expected.numpy())


def write_crowded(root: Path) -> Path:
    """One photograph of 24 x 32 with an object, and a crowd over a part of it."""
    write_coco(root)
    first = {"id": 101, "file_name": f"{101:012d}.jpg", "height": 24, "width": 32}
    held = [
        {"segmentation": [polygon(4, 6, 10, 12)], "category_id": 18, "iscrowd": 0},
        {"segmentation": run_lengths(0, 4, 9, 20, (24, 32)), "category_id": 1, "iscrowd": 1},
    ]
    annotate(root, "val2017", [first], [{"id": n, "image_id": 101, **one} for n, one in enumerate(held)])
    return root


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_crowds_are_dropped_and_images_stay_as_they_are(tmp_path: Path, fit: str) -> None:
    data = COCODataModule(data_root=str(write_crowded(tmp_path)), num_workers=0, resolution=16, fit=fit)
    scored = ResizedTargetDataset(data.test_set, 48)[[0]]
    expected = torch.zeros(24, 32, dtype=torch.uint8)
    expected[4:14, 6:18] = 1
    if fit == "crop":  # 24 pixels become 48, so each is doubled
        expected = expected[:, 4:28].repeat_interleave(2, 0).repeat_interleave(2, 1)
    else:
        expected = F.interpolate(expected[None, None], (48, 48), mode="nearest-exact")[0, 0]
    assert torch.equal(scored["mask"][0], expected)
    assert torch.equal(scored["classes"][0], expected * 2)
    plain = data.test_set[[0]]
    assert torch.equal(scored["image"], plain["image"])
    assert 255 in plain["mask"]
    assert 255 not in scored["mask"]


def test_borders_of_voc_stay_ignored(tmp_path: Path) -> None:
    data = VOCDataModule(data_root=str(write_voc(tmp_path)), num_workers=0, resolution=16)
    scored = ResizedTargetDataset(data.test_set, 40)[0]
    assert scored["mask"].shape == scored["classes"].shape == (40, 40)
    assert (255 in scored["mask"]) == (255 in data.test_set[0]["mask"])


def test_scenes_of_one_size_are_cropped_as_their_images(tmp_path: Path) -> None:
    from object_discovery import ClevrTexDataModule

    data = ClevrTexDataModule(data_root=str(write_clevrtex(tmp_path)), num_workers=0, resolution=16)
    large = ClevrTexDataModule(data_root=str(tmp_path), num_workers=0, resolution=96)
    scored = ResizedTargetDataset(data.train_set, 96)[[0, 2]]
    assert torch.equal(scored["mask"], large.train_set[[0, 2]]["mask"])
    assert torch.equal(scored["image"], data.train_set[[0, 2]]["image"])
