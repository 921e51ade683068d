from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from object_discovery.benchmarks.layouts import (
    Features,
    read_features,
    write_library_layout,
    write_png_folder,
    write_reference_layout,
)
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.datasets.clevr import CLEVRDataModule
from object_discovery.data.readers.hdf5_scenes import SceneFile
from tests.data.tfrecord_writer import example, random_scene, reference_labels, write


@pytest.fixture(scope="module")
def scenes() -> list[Features]:
    return [random_scene("clevr_with_masks", seed) for seed in range(3)]


def test_both_hdf5_layouts_are_read_alike(scenes: list[Features], tmp_path: Path) -> None:
    assert (
        write_library_layout(tmp_path / "library.h5", scenes)
        == write_reference_layout(tmp_path / "reference.h5", scenes)
        == 3
    )
    library, reference = SceneFile(tmp_path / "library.h5"), SceneFile(tmp_path / "reference.h5")
    assert library.dataset == reference.dataset == "clevr_with_masks"
    for index, scene in enumerate(scenes):
        expected = reference_labels(scene, "clevr_with_masks")
        for file in (library, reference):
            np.testing.assert_array_equal(file.image(index), scene["image"])
            np.testing.assert_array_equal(file.mask(index), expected)
            assert file.factors(index).keys() == scene.keys() - {"image", "mask"}
            np.testing.assert_array_equal(file.factors(index)["pixel_coords"], scene["pixel_coords"])
    for crop in (None, (29, 64, 192, 192)):
        np.testing.assert_array_equal(library.object_counts(crop), reference.object_counts(crop))


def test_reference_layout_has_the_shapes_chunks_and_compression_of_the_reference_conversion(
    scenes: list[Features], tmp_path: Path
) -> None:
    write_reference_layout(tmp_path / "a.h5", scenes)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.keys() == scenes[0].keys()
        mask = file["mask"]
        assert (mask.shape, mask.maxshape, mask.compression) == ((3, 11, 240, 320, 1), (None, 11, 240, 320, 1), "gzip")
        assert mask.compression_opts == 4
        with h5py.File("expected", "w", driver="core", backing_store=False) as expected_file:
            expected = expected_file.create_dataset(
                "mask", data=scenes[0]["mask"][None], maxshape=mask.maxshape, chunks=True
            )
            assert mask.chunks == expected.chunks
        np.testing.assert_array_equal(mask[:], [scene["mask"] for scene in scenes])


def test_library_layout_equals_that_of_the_conversion(scenes: list[Features], tmp_path: Path) -> None:
    records = write(tmp_path / "a.tfrecords", [example(scene) for scene in scenes])
    convert_tfrecord(records, tmp_path / "converted.h5")
    write_library_layout(tmp_path / "library.h5", scenes)
    with h5py.File(tmp_path / "converted.h5") as converted, h5py.File(tmp_path / "library.h5") as library:
        names: list[str] = []
        converted.visit(names.append)
        for name in names:
            if isinstance(converted[name], h5py.Dataset):
                np.testing.assert_array_equal(converted[name], library[name])
    read = read_features(SceneFile(tmp_path / "converted.h5"), [2])[0]
    assert read.keys() == scenes[2].keys()
    for name, values in scenes[2].items():
        if name != "mask":
            np.testing.assert_array_equal(read[name], values)
    covered = scenes[2]["mask"].any(axis=0)
    np.testing.assert_array_equal(read["mask"].argmax(axis=0)[covered], scenes[2]["mask"].argmax(axis=0)[covered])


def test_png_folder_is_read_as_clevr(scenes: list[Features], tmp_path: Path) -> None:
    write_png_folder(tmp_path / "CLEVR_v1.0", scenes)
    with Image.open(tmp_path / "CLEVR_v1.0" / "images" / "train" / "CLEVR_train_000001.png") as image:
        assert (image.size, image.mode) == ((480, 320), "RGBA")
        small = np.asarray(image.convert("RGB").resize((320, 240), Image.Resampling.BOX)).astype(int)
    assert np.abs(small.mean((0, 1)) - scenes[1]["image"].mean((0, 1))).max() < 2
    assert len(CLEVRDataModule(data_root=str(tmp_path)).train_set) == 3
