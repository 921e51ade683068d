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
def test_resize_labels_equals_nearest_exact_of_torch(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    expected = F.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest-exact")[0, 0]
    np.testing.assert_array_equal(resize_labels(labels, size), expected.numpy())


@pytest.mark.parametrize("size", [(50, 33), (31, 47), (40, 40)])
def test_evaluation_maps_equal_resize_and_center_crop_of_torchvision(size: tuple[int, int], tmp_path: Path) -> None:
    scenes = COCODataModule(data_root=str(write_coco(tmp_path)), num_workers=0, resolution=16).test_set
    assert isinstance(scenes, StoredScenes)
    labels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    tensor = torch.from_numpy(labels)[None]
    for side in (32, 80):
        resized = transforms.resize(tensor, [side], transforms.InterpolationMode.NEAREST_EXACT)
        expected = transforms.center_crop(resized, [side])[0]
        resized_labels = scenes.source._resized(labels, side)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(resized_labels, expected.numpy())


def write_crowded(root: Path) -> Path:
    """Write one photograph of 24 x 32 pixels with an object, partly covered by a crowd region."""
    write_coco(root)
    first = {"id": 101, "file_name": f"{101:012d}.jpg", "height": 24, "width": 32}
    annotations = [
        {"segmentation": [polygon(4, 6, 10, 12)], "category_id": 18, "iscrowd": 0},
        {"segmentation": run_lengths(0, 4, 9, 20, (24, 32)), "category_id": 1, "iscrowd": 1},
    ]
    annotate(
        root, "val2017", [first], [{"id": n, "image_id": 101, **annotation} for n, annotation in enumerate(annotations)]
    )
    return root


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_crowd_regions_are_dropped_and_images_are_unchanged(tmp_path: Path, fit: str) -> None:
    data = COCODataModule(data_root=str(write_crowded(tmp_path)), num_workers=0, resolution=16, fit=fit)
    resized_batch = ResizedTargetDataset(data.test_set, 48)[[0]]
    expected = torch.zeros(24, 32, dtype=torch.uint8)
    expected[4:14, 6:18] = 1
    if fit == "crop":  # 24 pixels become 48
        expected = expected[:, 4:28].repeat_interleave(2, 0).repeat_interleave(2, 1)
    else:
        expected = F.interpolate(expected[None, None], (48, 48), mode="nearest-exact")[0, 0]
    assert torch.equal(resized_batch["mask"][0], expected)
    assert torch.equal(resized_batch["classes"][0], expected * 2)
    plain = data.test_set[[0]]
    assert torch.equal(resized_batch["image"], plain["image"])
    assert 255 in plain["mask"]
    assert 255 not in resized_batch["mask"]


def test_ignored_borders_of_voc_are_kept(tmp_path: Path) -> None:
    data = VOCDataModule(data_root=str(write_voc(tmp_path)), num_workers=0, resolution=16)
    resized_batch = ResizedTargetDataset(data.test_set, 40)[0]
    assert resized_batch["mask"].shape == resized_batch["classes"].shape == (40, 40)
    assert (255 in resized_batch["mask"]) == (255 in data.test_set[0]["mask"])


def test_other_label_maps_are_cropped_like_the_images(tmp_path: Path) -> None:
    from object_discovery import ClevrTexDataModule

    data = ClevrTexDataModule(data_root=str(write_clevrtex(tmp_path)), num_workers=0, resolution=16)
    large = ClevrTexDataModule(data_root=str(tmp_path), num_workers=0, resolution=96)
    resized_batch = ResizedTargetDataset(data.train_set, 96)[[0, 2]]
    assert torch.equal(resized_batch["mask"], large.train_set[[0, 2]]["mask"])
    assert torch.equal(resized_batch["image"], data.train_set[[0, 2]]["image"])
