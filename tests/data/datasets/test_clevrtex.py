import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from object_discovery.data.datasets.clevrtex import VARIANTS, ClevrTexDataModule, ClevrTexSource, index_scenes
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.clevrtex import make_labels, write_clevrtex, write_scene

CENTRE = (slice(3, 27), slice(8, 32))  # the central square of 0.8 * 30 pixels
SPLITS = ("train", "val", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_clevrtex(tmp_path)


def load(root: Path, **settings: Any) -> ClevrTexDataModule:
    return ClevrTexDataModule(data_root=str(root), **{"resolution": 24, "val_size": None, "num_workers": 0, **settings})


def make_source(root: Path, variant: str = "full") -> ClevrTexSource:
    folder = root / f"clevrtex_{variant}"
    return ClevrTexSource(folder, variant, index_scenes(folder)[variant])


def read_image(root: Path, number: int, variant: str = "full") -> np.ndarray[Any, Any]:
    path = root / f"clevrtex_{variant}" / str(number // 1000) / f"CLEVRTEX_{variant}_{number:06d}.png"
    with Image.open(path) as image:
        return np.array(image)[..., :3]


def test_images_and_labels_are_cropped_to_the_centre(root: Path) -> None:
    data = load(root)
    first = {"test": 0, "val": 2, "train": 4}
    for split in SPLITS:
        scenes = getattr(data, f"{split}_set")
        for number, scene in enumerate(scenes[i] for i in range(len(scenes))):
            number += first[split]
            assert (scene["image"].numpy().dtype, scene["mask"].numpy().dtype) == (np.uint8, np.uint8)
            np.testing.assert_array_equal(scene["image"], read_image(root, number)[CENTRE].transpose(2, 0, 1))
            np.testing.assert_array_equal(scene["mask"], make_labels(number)[CENTRE])


def test_crop_of_published_images() -> None:
    data = ClevrTexDataModule()
    assert data._crop((240, 320)) == (24, 64, 192, 192)
    assert ClevrTexDataModule(fit="squash")._crop((240, 320)) is None


def test_resizing_equals_that_of_pil(root: Path) -> None:
    scene = load(root, resolution=16).train_set[0]
    image = Image.fromarray(read_image(root, 4)[CENTRE])
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1).astype(int)
    assert np.abs(scene["image"].numpy() - expected).max() <= 1
    labels = Image.fromarray(make_labels(4)[CENTRE]).resize((16, 16), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(scene["mask"], np.asarray(labels))


def test_fit_squash_resizes_the_whole_image(root: Path) -> None:
    scene = load(root, fit="squash", resolution=10).train_set[0]
    labels = make_labels(4)[1::3, 2::4]  # nearest neighbour: the second of 3 rows, the third of 4 columns
    np.testing.assert_array_equal(scene["mask"], labels)


def test_splits_by_number_are_disjoint_and_complete(tmp_path: Path) -> None:
    numbers = [*range(990, 1010), 5, 49_999]
    data = load(write_clevrtex(tmp_path, numbers=numbers))
    order = sorted(numbers)
    splits = {split: data.splits[split].indices.tolist() for split in SPLITS}
    assert splits == {"test": [0, 1], "val": [2, 3], "train": list(range(4, 22))}
    source = data.splits["train"].source
    for index, number in enumerate(order):
        np.testing.assert_array_equal(source.image(index), read_image(tmp_path, number))
    assert "10 % to validate, the rest to train; published are 50,000 scenes, here are 22" in data.splits["val"].rule


@pytest.mark.parametrize("size", [3, 9, 19, 20])
def test_small_datasets_have_all_splits(tmp_path: Path, size: int) -> None:
    data = load(write_clevrtex(tmp_path, "camo", range(size)), variant="camo")
    splits = [data.splits[split].indices.tolist() for split in ("test", "val", "train")]
    assert [scene for scenes in splits for scene in scenes] == list(range(size))
    assert [len(split) for split in splits[:2]] == [2, 2] if size == 20 else [1, 1]


def test_too_few_scenes_to_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at least 3 scenes .*, but got 2"):
        load(write_clevrtex(tmp_path, numbers=range(2))).setup("fit")


def test_outd_has_only_a_test_split(tmp_path: Path) -> None:
    data = load(write_clevrtex(tmp_path, "outd", range(5)), variant="outd")
    assert len(data.test_set) == 5
    np.testing.assert_array_equal(data.test_set[4]["mask"], make_labels(4)[CENTRE])
    with pytest.raises(DatasetNotFoundError, match=r"Expected a train split in .*, but it has test only"):
        data.setup("fit")


@pytest.mark.parametrize("variant", VARIANTS)
def test_data_root_is_the_folder_of_a_variant_or_its_parent(tmp_path: Path, variant: str) -> None:
    write_clevrtex(tmp_path, variant, range(3))
    for root in (tmp_path, tmp_path / f"clevrtex_{variant}"):
        for settings in ({"variant": variant}, {}):
            data = load(root, **settings)
            assert len(data.test_set) == (3 if variant == "outd" else 1)
            assert data.variant == variant
            np.testing.assert_array_equal(
                data.test_set[0]["image"], read_image(tmp_path, 0, variant)[CENTRE].transpose(2, 0, 1)
            )


def test_default_variant_is_full(root: Path) -> None:
    write_clevrtex(root, "camo", range(3))
    assert load(root).variant == "full"
    assert len(load(root, variant="camo").train_set) == 1
    with pytest.raises(UserError, match="hold the variant camo, but it holds full: give `--variant full`"):
        load(root / "clevrtex_full", variant="camo").setup("fit")
    with pytest.raises(DatasetNotFoundError, match=r"has no scenes as 0/CLEVRTEX_pbg_000000.png; download it by"):
        load(root, variant="pbg").setup("fit")


def test_other_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=f"Cannot list {re.escape(str(tmp_path))}/none"):
        load(tmp_path / "none").setup("fit")
    Image.new("RGB", (4, 3)).save(tmp_path / "photograph.png")
    with pytest.raises(DatasetNotFoundError, match=r"`data_root` to be a folder clevrtex_full or the one .* no scenes"):
        load(tmp_path).setup("fit")
    with pytest.raises(
        DatasetNotFoundError, match=r"the file or folder of clevrtex, but got None: .*download clevrtex"
    ):
        ClevrTexDataModule().setup("fit")


def test_other_files_are_ignored(root: Path) -> None:
    for name in ("._CLEVRTEX_full_000000.png", "CLEVRTEX_full_000000_flat (1).png", "Thumbs.db", "CLEVRTEX_full_1.png"):
        (root / "clevrtex_full" / "0" / name).write_bytes(b"")
    assert len(load(root).train_set) == 16


def test_object_limits_count_objects_in_the_crop(root: Path) -> None:
    counts_in_frame = np.array([len(np.unique(make_labels(number))) - 1 for number in range(20)])
    counts = np.array([len(np.unique(make_labels(number)[CENTRE])) - 1 for number in range(20)])
    assert (counts < counts_in_frame).any()
    source = make_source(root)
    for _ in range(2):  # computed, then cached
        np.testing.assert_array_equal(source.object_counts((3, 8, 24, 24)), counts)
        np.testing.assert_array_equal(source.object_counts(), counts_in_frame)
        np.testing.assert_array_equal(source.num_objects(), counts_in_frame)
    data = load(root, min_objects=4, max_objects=4, eval_max_objects=0)
    selected = 4 + np.flatnonzero(counts[4:] == 4)
    assert len(data.train_set) == len(selected) > 0
    for scene, number in enumerate(selected):
        np.testing.assert_array_equal(data.train_set[scene]["mask"], make_labels(int(number))[CENTRE])


def test_object_counts_are_updated_for_changed_files(root: Path) -> None:
    counts = make_source(root).object_counts()
    folder = root / "clevrtex_full" / "0"
    (folder / "CLEVRTEX_full_000007_flat.png").write_bytes((folder / "CLEVRTEX_full_000004_flat.png").read_bytes())
    for path in folder.glob("CLEVRTEX_full_000000*"):
        path.unlink()
    write_scene(folder, "full", 20)
    expected = [counts[4] if number == 7 else counts[number] for number in range(1, 20)] + [counts[0]]
    assert counts[7] != counts[4]
    assert make_source(root).object_counts().tolist() == expected


def test_ignored_pixels_are_not_counted_as_objects(root: Path) -> None:
    labels = make_labels(3)
    labels[10:15] = 255
    Image.fromarray(labels, "L").save(root / "clevrtex_full" / "0" / "CLEVRTEX_full_000003_flat.png")
    assert make_source(root).object_counts()[3] == len(np.setdiff1d(labels, [0, 255]))


def test_metadata_equals_the_json_file(root: Path) -> None:
    path = root / "clevrtex_full" / "0" / "CLEVRTEX_full_000006.json"
    metadata = make_source(root).metadata(6)
    assert metadata == json.loads(path.read_text())
    assert [o["index"] for o in metadata["objects"]] == np.unique(make_labels(6))[1:].tolist()


def test_sources_can_be_pickled(root: Path) -> None:
    source = make_source(root)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.maps(3)["mask"], source.maps(3)["mask"])
    assert (copy.variant, len(copy)) == ("full", 20)


@pytest.mark.parametrize("suffix", [".png", "_flat.png", ".json"])
def test_incomplete_scenes_are_refused(root: Path, suffix: str) -> None:
    folder = root / "clevrtex_full"
    for number in (5, 8):
        (folder / "0" / f"CLEVRTEX_full_{number:06d}{suffix}").unlink()
    assert np.flatnonzero(~index_scenes(folder)["full"].whole).tolist() == [5, 8]
    message = f"{folder}: .* missing for 2 of 20, first for 0/CLEVRTEX_full_000005: unpack the archives again"
    with pytest.raises(CorruptFileError, match=message):
        load(root).setup("fit")


def test_duplicate_scenes_are_refused(root: Path) -> None:
    write_scene(root / "clevrtex_full" / "copy", "full", 7)
    message = "one scene of each number, but got 0/CLEVRTEX_full_000007 and copy/CLEVRTEX_full_000007: move one"
    with pytest.raises(CorruptFileError, match=message):
        load(root).setup("fit")


@pytest.mark.parametrize("suffix", [".png", "_flat.png"])
def test_damaged_images_are_refused(root: Path, suffix: str) -> None:
    path = root / "clevrtex_full" / "0" / f"CLEVRTEX_full_000007{suffix}"
    data = load(root)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptFileError, match=re.escape(f"{path}: expected a whole image")):
        data.train_set[3]
    Image.new("P", (40, 29)).save(path)
    message = f"{path}: expected 30 x 40 pixels as in the first scene, but got 29 x 40"
    with pytest.raises(CorruptFileError, match=re.escape(message)):
        data.train_set[3]
    path.unlink()
    with pytest.raises(DatasetNotFoundError, match=re.escape(str(path))):
        data.train_set[3]


def test_rgb_label_maps_are_refused(root: Path) -> None:
    path = root / "clevrtex_full" / "0" / "CLEVRTEX_full_000007_flat.png"
    Image.new("RGB", (40, 30)).save(path)
    with pytest.raises(CorruptFileError, match=re.escape(str(path))):
        load(root, max_objects=5).setup("fit")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"num_objects": 3, "obj', "expected a whole JSON file, but it cannot be read"),
        ("\xff", "expected a whole JSON file, but it cannot be read"),
        ("[1, 2]", "expected the description of a scene, but got list"),
        ('{"objects": []}', "expected `num_objects` to be a whole number, but got None"),
    ],
)
def test_damaged_annotations_are_refused(root: Path, content: str, reason: str) -> None:
    path = root / "clevrtex_full" / "0" / "CLEVRTEX_full_000007.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptFileError, match=re.escape(f"{path}: {reason}")):
        make_source(root).num_objects()


def test_missing_annotations_are_refused(root: Path) -> None:
    source = make_source(root)
    path = root / "clevrtex_full" / "0" / "CLEVRTEX_full_000007.json"
    path.unlink()
    with pytest.raises(DatasetNotFoundError, match=re.escape(f"Cannot read {path}: No such file")):
        source.metadata(7)
