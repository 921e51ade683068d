from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from object_discovery.benchmarks.layouts import Features, read_features, write_ours, write_png_tree, write_published
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.datasets.clevr import CLEVRDataModule
from object_discovery.data.readers.hdf5_scenes import SceneFile
from tests.data.tfrecord_writer import example, random_scene, reference_labels, write


@pytest.fixture(scope="module")
def scenes() -> list[Features]:
    return [random_scene("clevr_with_masks", seed) for seed in range(3)]


def test_both_layouts_read_alike(scenes: list[Features], tmp_path: Path) -> None:
    assert write_ours(tmp_path / "ours.h5", scenes) == write_published(tmp_path / "published.h5", scenes) == 3
    ours, published = SceneFile(tmp_path / "ours.h5"), SceneFile(tmp_path / "published.h5")
    assert ours.dataset == published.dataset == "clevr_with_masks"
    for index, scene in enumerate(scenes):
        expected = reference_labels(scene, "clevr_with_masks")
        for file in (ours, published):
            np.testing.assert_array_equal(file.image(index), scene["image"])
            np.testing.assert_array_equal(file.mask(index), expected)
            assert file.factors(index).keys() == scene.keys() - {"image", "mask"}
            np.testing.assert_array_equal(file.factors(index)["pixel_coords"], scene["pixel_coords"])
    for crop in (None, (29, 64, 192, 192)):
        np.testing.assert_array_equal(ours.object_counts(crop), published.object_counts(crop))


def test_the_published_file_is_as_published(scenes: list[Features], tmp_path: Path) -> None:
    write_published(tmp_path / "a.h5", scenes)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.keys() == scenes[0].keys()
        mask = file["mask"]
        assert (mask.shape, mask.maxshape, mask.compression) == ((3, 11, 240, 320, 1), (None, 11, 240, 320, 1), "gzip")
        assert mask.compression_opts == 4
        with h5py.File("oracle", "w", driver="core", backing_store=False) as other:
            guessed = other.create_dataset("mask", data=scenes[0]["mask"][None], maxshape=mask.maxshape, chunks=True)
            assert mask.chunks == guessed.chunks
        np.testing.assert_array_equal(mask[:], [scene["mask"] for scene in scenes])


def test_our_file_is_that_of_the_conversion(scenes: list[Features], tmp_path: Path) -> None:
    records = write(tmp_path / "a.tfrecords", [example(scene) for scene in scenes])
    convert_tfrecord(records, tmp_path / "converted.h5")
    write_ours(tmp_path / "ours.h5", scenes)
    with h5py.File(tmp_path / "converted.h5") as converted, h5py.File(tmp_path / "ours.h5") as ours:
        names: list[str] = []
        converted.visit(names.append)
        for name in names:
            if isinstance(converted[name], h5py.Dataset):
                np.testing.assert_array_equal(converted[name], ours[name])
    read = read_features(SceneFile(tmp_path / "converted.h5"), [2])[0]
    assert read.keys() == scenes[2].keys()
    for name, values in scenes[2].items():
        if name != "mask":
            np.testing.assert_array_equal(read[name], values)
    covered = scenes[2]["mask"].any(axis=0)
    np.testing.assert_array_equal(read["mask"].argmax(axis=0)[covered], scenes[2]["mask"].argmax(axis=0)[covered])


def test_png_tree(scenes: list[Features], tmp_path: Path) -> None:
    write_png_tree(tmp_path / "CLEVR_v1.0", scenes)
    with Image.open(tmp_path / "CLEVR_v1.0" / "images" / "train" / "CLEVR_train_000001.png") as image:
        assert (image.size, image.mode) == ((480, 320), "RGBA")
        small = np.asarray(image.convert("RGB").resize((320, 240), Image.Resampling.BOX)).astype(int)
    assert np.abs(small.mean((0, 1)) - scenes[1]["image"].mean((0, 1))).max() < 2
    assert len(CLEVRDataModule(data_root=str(tmp_path)).train_set) == 3
