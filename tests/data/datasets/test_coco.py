"""COCO: images, label maps and splits of the published layout, against pycocotools and on real annotations."""

from __future__ import annotations

import json
import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from object_discovery.data.datasets import coco
from object_discovery.data.datasets.coco import COCODataModule, COCOSource, compose_maps, index_annotations
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.coco import CATEGORIES, annotate, polygon, run_lengths, write_coco

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")

REAL = Path(os.environ.get("OBJECT_DISCOVERY_COCO", Path(__file__).parents[4] / "shared" / "data" / "coco128"))
"""A folder with some images of train2017 and their annotations."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path)


def make_data(root: Path, **settings: Any) -> COCODataModule:
    return COCODataModule(data_root=str(root), resolution=24, num_workers=0, batch_size=4, **settings)


def reference_maps(path: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Compute the label maps of every image by pycocotools, keyed by file name."""
    annotated = COCO(path)
    classes = {category: number for number, category in enumerate(sorted(annotated.getCatIds()), start=1)}
    maps = {}
    for image in annotated.loadImgs(annotated.getImgIds()):
        size = (image["height"], image["width"])
        annotations = annotated.loadAnns(annotated.getAnnIds(image["id"]))
        crowd = np.zeros(size, bool)
        num_covering = np.zeros(size, np.uint16)
        labels = np.zeros(size, np.uint16)
        class_masks: dict[int, NDArray[Any]] = {}
        number = 0
        for annotation in annotations:
            mask = annotated.annToMask(annotation).astype(bool)
            if annotation["iscrowd"]:
                crowd |= mask
                continue
            number += 1
            num_covering += mask
            labels += np.uint16(number) * mask
            category = classes[annotation["category_id"]]
            class_masks[category] = class_masks.get(category, False) | mask
        is_ambiguous = sum(class_masks.values(), np.zeros(size, int)) > 1
        class_sum = sum((category * mask for category, mask in class_masks.items()), np.zeros(size, int))
        class_map = np.where(is_ambiguous, 255, class_sum)
        maps[image["file_name"]] = np.where(crowd | (num_covering > 1), 255, labels), np.where(crowd, 255, class_map)
    return maps


def write_image(root: Path, annotations: list[dict[str, Any]], size: tuple[int, int] = (24, 32)) -> COCOSource:
    """Write one image with these annotations: `segmentation`, `category_id` and optionally `iscrowd`."""
    (root / "train2017").mkdir(exist_ok=True)
    Image.new("RGB", size[::-1]).save(root / "train2017" / "1.jpg")
    images = [{"id": 1, "file_name": "1.jpg", "height": size[0], "width": size[1]}]
    records = [{"id": k, "image_id": 1, "iscrowd": 0, **annotation} for k, annotation in enumerate(annotations)]
    return COCOSource(root / "train2017", annotate(root, "train2017", images, records), fit="squash")


def test_images_and_label_maps_equal_the_files(root: Path) -> None:
    source = COCOSource(root / "val2017", root / "annotations" / "instances_val2017.json", fit="squash")
    assert len(source) == 4
    expected = reference_maps(root / "annotations" / "instances_val2017.json")
    for index, number in enumerate(range(101, 105)):
        name = f"{number:012d}.jpg"
        with Image.open(root / "val2017" / name) as image:
            np.testing.assert_array_equal(source.image(index), np.asarray(image))
        maps = source.maps(index)
        np.testing.assert_array_equal(maps["mask"], expected[name][0])
        np.testing.assert_array_equal(maps["classes"], expected[name][1])
        objects = number % 3
        assert [(maps["mask"] == label).sum() for label in (1, 2)] == [24 * (objects >= 1), 24 * (objects >= 2)]
        assert (maps["mask"] == 255).sum() == (45 if number % 2 == 0 else 0)
        assert maps["mask"].dtype == maps["classes"].dtype == np.uint8


def test_images_are_cropped_to_the_central_square(root: Path) -> None:
    squashed = COCOSource(root / "val2017", root / "annotations" / "instances_val2017.json", fit="squash")
    cropped = COCOSource(root / "val2017", root / "annotations" / "instances_val2017.json")
    np.testing.assert_array_equal(cropped.image(0), squashed.image(0)[:, 4:28])
    np.testing.assert_array_equal(cropped.maps(0)["mask"], squashed.maps(0)["mask"][:, 4:28])
    np.testing.assert_array_equal(cropped.maps(1)["classes"], squashed.maps(1)["classes"][5:25])


def test_keys_shapes_and_types_of_batches(root: Path) -> None:
    for batch in make_data(root).train_dataloader():
        assert set(batch) == {"image", "mask", "classes"}
        assert batch["image"].shape == (4, 3, 24, 24)
        assert batch["mask"].shape == batch["classes"].shape == (4, 24, 24)
        assert all(value.dtype == torch.uint8 for value in batch.values())
        assert set(batch["classes"].unique().tolist()) <= {0, 1, 2, 255}


def test_fit_squash_equals_the_resize_of_pil(root: Path) -> None:
    batch = make_data(root, fit="squash").test_set[0]
    with Image.open(root / "val2017" / f"{101:012d}.jpg") as image:
        expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
    assert np.abs(batch["image"].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_splits_are_disjoint_and_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = make_data(root).splits
    assert {name: split.indices.tolist() for name, split in splits.items()} == {
        "train": list(range(12)),
        "val": [12, 13],
        "test": list(range(4)),
    }
    assert splits["train"].source is splits["val"].source
    assert splits["test"].source is not splits["train"].source
    assert splits["train"].rule == "train2017 without the last 2"
    monkeypatch.setattr(coco, "NUM_VALIDATION", 1)
    assert make_data(root).splits["val"].indices.tolist() == [13]


def test_images_are_sorted_by_id(root: Path) -> None:
    files = index_annotations(root / "annotations" / "instances_train2017.json")["files"]
    assert files.tolist() == sorted(files.tolist())


def test_splits_of_a_single_folder(root: Path) -> None:
    (root / "val2017").rename(root / "elsewhere")
    train = make_data(root).splits
    assert sorted(np.concatenate([split.indices for split in train.values()]).tolist()) == list(range(14))
    assert [len(split.indices) for split in train.values()] == [10, 2, 2]
    (root / "elsewhere").rename(root / "val2017")
    (root / "train2017").rename(root / "elsewhere")
    assert list(make_data(root).splits) == ["test"]
    with pytest.raises(DatasetNotFoundError, match=r"Expected a train split in .*, but it has test only"):
        make_data(root).setup("fit")


def test_images_may_be_in_a_folder_images(root: Path) -> None:
    (root / "images").mkdir()
    for split in ("train2017", "val2017"):
        (root / split).rename(root / "images" / split)
    assert len(make_data(root).test_set) == 4


def test_object_limits_count_objects_in_the_crop(root: Path) -> None:
    """Image k has k % 3 objects; ids 1 to 12 are for training."""
    filtered = make_data(root, min_objects=1, max_objects=1)
    assert filtered.splits["train"].source.object_counts().tolist() == [k % 3 for k in range(1, 15)]
    assert len(filtered.train_set) == 4
    source = write_image(root, [{"segmentation": [polygon(2, left, 3, 2)], "category_id": 1} for left in (0, 10, 29)])
    assert source.object_counts().tolist() == [3]
    source.fit = "crop"
    assert source.object_counts().tolist() == [1]
    assert source.object_counts((0, 0, 2, 24)).tolist() == [0]


def test_images_without_annotations_are_kept(root: Path) -> None:
    scene = make_data(root).train_set[2]  # id 3 has neither objects nor crowd regions
    assert scene["mask"].max() == scene["classes"].max() == 0


def test_crowd_regions_and_overlaps_are_ignored(tmp_path: Path) -> None:
    maps = write_image(
        tmp_path,
        [
            {"segmentation": [polygon(2, 2, 6, 6)], "category_id": 18},
            {"segmentation": [polygon(2, 6, 6, 6)], "category_id": 18},
            {"segmentation": [polygon(2, 10, 6, 6), polygon(12, 10, 2, 2)], "category_id": 90},
            {"segmentation": run_lengths(6, 0, 4, 32, (24, 32)), "category_id": 1, "iscrowd": 1},
        ],
    ).maps(0)
    assert maps["mask"][3, :18].tolist() == [0, 0, *[1] * 4, 255, 255, 2, 2, 255, 255, *[3] * 4, 0, 0]
    assert maps["classes"][3, :18].tolist() == [0, 0, *[2] * 8, 255, 255, *[3] * 4, 0, 0]
    assert maps["mask"][12:14, 10:12].tolist() == [[3, 3], [3, 3]]
    assert (maps["mask"][6:10] == 255).all()
    assert (maps["classes"][6:10] == 255).all()


def test_pixels_of_three_objects_are_ignored() -> None:
    masks = [np.array([row], np.uint8) for row in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0])]
    maps = compose_maps(masks, [1, 2, 1], [0, 0, 0], (1, 4))
    assert maps["mask"].tolist() == [[255, 255, 1, 0]]
    assert maps["classes"].tolist() == [[255, 255, 1, 0]]


def test_largest_254_objects_are_kept() -> None:
    lengths = [1 if k in (3, 200) else 2 for k in range(256)]
    ends = np.cumsum([0, *lengths])
    masks = [np.zeros((1, ends[-1] + 1), np.uint8) for _ in lengths]
    for mask, (start, end) in zip(masks, pairwise(ends), strict=True):
        mask[:, start:end] = 1
    maps = compose_maps(masks, [5] * 256, [0] * 256, (1, int(ends[-1]) + 1))
    labels = [int(maps["mask"][0, start]) for start in ends[:-1]]
    assert [k for k, label in enumerate(labels) if label == 255] == [3, 200]
    assert [label for label in labels if label != 255] == list(range(1, 255))
    assert maps["mask"][0, -1] == 0
    assert (maps["classes"][0, :-1] == 5).all()


def test_polygons_and_run_lengths_give_the_same_mask(tmp_path: Path) -> None:
    box, size = (2, 3, 5, 7), (24, 32)
    compressed = rle.frPyObjects(run_lengths(*box, size), *size)
    compressed_rle = {"size": list(size), "counts": compressed["counts"].decode()}
    segmentations: list[Any] = [[polygon(*box)], run_lengths(*box, size), compressed_rle]
    expected = np.zeros(size, np.uint8)
    expected[2:7, 3:10] = 1
    for segmentation in segmentations:
        source = write_image(tmp_path, [{"segmentation": segmentation, "category_id": 1}])
        np.testing.assert_array_equal(source.maps(0)["mask"], expected)


def test_annotations_are_cached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_data(root).train_set[1]
    monkeypatch.setattr(json, "load", lambda *_, **__: pytest.fail("read again"))
    cached = make_data(root).train_set
    assert torch.equal(cached[1]["mask"], first["mask"])
    copied = pickle.loads(pickle.dumps(cached))
    assert torch.equal(copied[1]["mask"], first["mask"])
    assert len(pickle.dumps(cached)) < 5_000


def test_changed_annotations_are_read_again(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    assert make_data(root).test_set[0]["mask"].max() == 2
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    assert make_data(root).test_set[0]["mask"].max() == 0


def test_missing_files_are_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be a folder with `train2017`"):
        make_data(tmp_path_factory.mktemp("empty")).setup()
    with pytest.raises(DatasetNotFoundError, match="Expected argument `data_root` to be the file or folder of coco"):
        COCODataModule().setup()
    (root / "val2017" / f"{101:012d}.jpg").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"No such file: .*000000000101\.jpg"):
        make_data(root).test_set[0]
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"Expected the annotations of .*val2017 in .*instances_val2017"):
        make_data(root).setup()
    with pytest.raises(DatasetNotFoundError, match=r"No such file: .*instances_val2017\.json"):
        len(COCOSource(root / "val2017", root / "annotations" / "instances_val2017.json"))


def test_unreadable_annotations_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_permission_error(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(json, "load", raise_permission_error)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*instances_train2017\.json: permission denied"):
        make_data(root).setup()


def test_polygons_of_fewer_than_three_corners_are_skipped(tmp_path: Path) -> None:
    """Annotations without any valid polygon are skipped; the file is not refused."""
    square = polygon(2, 2, 6, 6)
    annotations = [
        {"segmentation": [[1, 2, 3, 4]], "category_id": 1},
        {"segmentation": [square, [9, 9, 20, 9]], "category_id": 18},
        {"segmentation": [[], [5, 5]], "category_id": 90},
    ]
    source = write_image(tmp_path, annotations)
    expected = rle.decode(rle.merge(rle.frPyObjects([square], 24, 32)))
    np.testing.assert_array_equal(source.maps(0)["mask"], expected)
    assert source.object_counts().tolist() == [1]


def test_object_counts_equal_those_of_the_label_maps(root: Path) -> None:
    annotations = root / "annotations" / "instances_train2017.json"
    for fit in ("crop", "squash"):
        source = COCOSource(root / "train2017", annotations, fit)
        expected = [len(set(source.maps(k)["mask"].ravel().tolist()) - {0, 255}) for k in range(len(source))]
        assert source.object_counts().tolist() == expected


def test_object_counts_are_at_most_254(tmp_path: Path) -> None:
    """260 objects of one pixel and a larger one; a label map has at most 254 labels."""
    runs = [{"size": [24, 32], "counts": [2 * k, 1, 767 - 2 * k]} for k in range(260)] + [
        run_lengths(20, 22, 2, 2, (24, 32))
    ]
    source = write_image(tmp_path, [{"segmentation": run, "category_id": 1} for run in runs])
    assert source.object_counts().tolist() == [254]


def test_object_counts_do_not_depend_on_the_block_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = root / "annotations" / "instances_train2017.json"
    expected = COCOSource(root / "train2017", annotations)._count()
    for block in (1, 20, 50):
        monkeypatch.setattr(coco, "_BLOCK", block)
        np.testing.assert_array_equal(COCOSource(root / "train2017", annotations)._count(), expected)


VALID = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 4}],
    "annotations": [{"image_id": 1, "segmentation": [polygon(0, 0, 2, 2)], "category_id": 1}],
    "categories": CATEGORIES,
}


def with_segmentation(segmentation: Any) -> dict[str, Any]:
    return {**VALID, "annotations": [{"image_id": 1, "segmentation": segmentation, "category_id": 1}]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        json.dumps(VALID)[:100],
        "[]",
        json.dumps({"images": [], "annotations": []}),
        json.dumps({**VALID, "images": [{"id": 1}]}),
        json.dumps({**VALID, "categories": CATEGORIES[1:]}),
        json.dumps({**VALID, "categories": [{"id": number} for number in range(255)]}),
        json.dumps(with_segmentation(5)),
        json.dumps(with_segmentation([list("abcdef")])),
        json.dumps(with_segmentation([[0, 0, 1, 0, float("nan"), 1]])),
        json.dumps(with_segmentation([[0, 0, 1, 0, 1e9, 1]])),
        json.dumps(with_segmentation({"size": [4, 5], "counts": [16]})),
        json.dumps(with_segmentation({"size": [4, 4], "counts": [9]})),
        json.dumps(with_segmentation({"size": [4, 4], "counts": [-4, 20]})),
        json.dumps(with_segmentation({"size": [4, 4], "counts": "zzz"})),
        json.dumps(with_segmentation({"size": [4, 4], "counts": ""})),
    ],
)
def test_damaged_annotations_raise_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(CorruptFileError, match=r"instances\.json: expected the annotations of COCO") as error:
        index_annotations(tmp_path / "instances.json")
    assert "\n" not in str(error.value)


def test_undamaged_annotations_are_read(tmp_path: Path) -> None:
    for content in (
        VALID,
        with_segmentation([[0, 0, 1, 0, 1, 1]]),
        with_segmentation({"size": [4, 4], "counts": [4, 12]}),
    ):
        (tmp_path / "instances.json").write_text(json.dumps(content))
        assert index_annotations(tmp_path / "instances.json")["classes"].tolist() == [1]


def test_compressed_run_lengths_equal_the_mask(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for density in (0.0, 0.003, 0.1, 0.5, 0.99, 1.0):
        mask = (generator.random((24, 32)) < density).astype(np.uint8)
        counts = rle.encode(np.asfortranarray(mask))["counts"].decode()
        source = write_image(tmp_path, [{"segmentation": {"size": [24, 32], "counts": counts}, "category_id": 1}])
        np.testing.assert_array_equal(source.maps(0)["mask"], mask)


def test_annotations_of_missing_images_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps({**VALID, "images": []}))
    index = index_annotations(tmp_path / "instances.json")
    assert (len(index["files"]), len(index["classes"])) == (0, 0)
    (tmp_path / "train2017").mkdir()
    annotate(tmp_path, "train2017", [], [])
    with pytest.raises(UserError, match="Expected at least 3 scenes to split"):
        make_data(tmp_path).setup()


def test_damaged_images_and_other_sizes_are_refused(root: Path) -> None:
    path = root / "val2017" / f"{101:012d}.jpg"
    content = path.read_bytes()
    Image.new("RGB", (5, 6)).save(path)
    with pytest.raises(CorruptFileError, match=r"0101\.jpg: expected 24 x 32 pixels, as instances_val2017\.json has"):
        make_data(root).test_set[0]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=r"0101\.jpg: expected a whole image"):
        make_data(root).test_set[0]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs images of COCO: set OBJECT_DISCOVERY_COCO to their folder")
def test_real_annotations_equal_those_of_pycocotools(tmp_path: Path) -> None:
    annotations = tmp_path / "instances_train2017.json"
    annotations.symlink_to(REAL / "annotations" / annotations.name)
    annotations_copy = tmp_path / "copy.json"
    annotations_copy.write_bytes(annotations.read_bytes())
    source = COCOSource(REAL / "train2017", annotations_copy, fit="squash")
    expected = reference_maps(annotations_copy)
    assert len(source) == len(expected) > 0
    ignored = 0
    for index, name in enumerate(source._index["files"].tolist()):
        maps = source.maps(index)
        np.testing.assert_array_equal(maps["mask"], expected[name.decode()][0])
        np.testing.assert_array_equal(maps["classes"], expected[name.decode()][1])
        ignored += int((maps["mask"] == 255).sum())
    assert ignored > 0
    assert source.image(0).shape[:2] == source.maps(0)["mask"].shape
