import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from object_discovery.data.readers.hdf5_scenes import SceneFile, compress_scene, write_scenes
from object_discovery.data.readers.strips import Strips, deflate_strips, strip_width

FRAME = (20, 128, 3)
CROP = (3, 32, 16, 64)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, *FRAME)).astype(np.uint8)
LABELS = IMAGES[..., 0] % 5


def write(path: Path, crop: Any) -> Path:
    columns = {"counts/crop": np.zeros(2, np.int32)}
    scenes = [compress_scene(image, labels, columns, crop) for image, labels in zip(IMAGES, LABELS, strict=True)]
    write_scenes(path, scenes, len(scenes), FRAME, {}, crop)
    return path


@pytest.mark.parametrize(
    ("columns", "crop", "width"),
    [
        (320, (29, 64, 192, 192), 64),
        (320, None, 320),
        (128, (0, 0, 5, 128), 128),
        (128, (0, 32, 5, 64), 32),
        (128, (0, 8, 5, 64), 128),  # strips of 8 columns are too narrow
        (35, (1, 1, 30, 30), 35),
    ],
)
def test_crops_consist_of_whole_strips(columns: int, crop: Any, width: int) -> None:
    assert strip_width(columns, crop) == width


def test_strips_are_zlib_streams() -> None:
    strips = [np.frombuffer(zlib.decompress(strip), np.uint8) for strip in deflate_strips(IMAGES[0], 32)]
    np.testing.assert_array_equal(np.concatenate([strip.reshape(20, 32, 3) for strip in strips], axis=1), IMAGES[0])


def test_h5py_reads_files_with_strips(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5", CROP)) as file:
        assert (file["image"].chunks, file["mask"].chunks) == ((1, 20, 32, 3), (1, 20, 128))
        assert file["image"].compression == file["mask"].compression == "gzip"
        np.testing.assert_array_equal(file["image"][:], IMAGES)
        np.testing.assert_array_equal(file["mask"][:], LABELS)


@pytest.mark.parametrize("stored", [CROP, None, (0, 0, 20, 128)])
@pytest.mark.parametrize("crop", [CROP, None, (0, 0, 20, 128), (5, 31, 1, 2), (19, 127, 1, 1), (2, 40, 9, 50)])
def test_crops_equal_those_of_the_whole_image(tmp_path: Path, stored: Any, crop: Any) -> None:
    file = SceneFile(write(tmp_path / "a.h5", stored))
    top, left, height, width = crop or (0, 0, *FRAME[:2])
    for index in (0, 3, -1):
        image, maps = file.scene(index, crop)
        np.testing.assert_array_equal(image, IMAGES[index][top : top + height, left : left + width])
        np.testing.assert_array_equal(maps["mask"], LABELS[index][top : top + height, left : left + width])
        np.testing.assert_array_equal(file.image(index), IMAGES[index])
    image[:] = 0  # writable
    with pytest.raises(IndexError):
        file.scene(4, crop)


def test_strips_outside_the_crop_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", CROP)
    with h5py.File(path, "a") as file:
        file["image"].id.write_direct_chunk((0, 0, 0, 0), b"damaged")
    image, _ = SceneFile(path).scene(0, CROP)
    np.testing.assert_array_equal(image, IMAGES[0][3:19, 32:96])


@pytest.mark.parametrize("chunks", [(1, 20, 128, 3), (1, 20, 64, 3)])
def test_uncompressed_chunks_are_read(tmp_path: Path, chunks: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("image", IMAGES.shape, "u1", chunks=chunks, compression="gzip")
        data.id.write_direct_chunk((1, 0, 0, 0), IMAGES[1, :, : chunks[2]].tobytes(), filter_mask=1)
    with h5py.File(tmp_path / "a.h5") as file:
        strips = Strips.from_dataset(file["image"])
        assert strips is not None
        np.testing.assert_array_equal(strips.read(1, (0, 0, 20, 10)), IMAGES[1, :, :10])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 20, 128, 3), "compression": "gzip"},
        {"chunks": (1, 10, 128, 3), "compression": "gzip"},
        {"chunks": (1, 20, 96, 3), "compression": "gzip"},
        {"chunks": (1, 20, 128, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (1, 20, 128, 3), "compression": "lzf"},
    ],
)
def test_datasets_without_strips_are_read_by_hdf5(tmp_path: Path, options: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=IMAGES, **options)
        file.create_dataset("mask", data=LABELS, chunks=True, compression="gzip")
        file.attrs["format"] = "object_discovery"
        assert Strips.from_dataset(file["image"]) is None
    image, maps = SceneFile(tmp_path / "a.h5").scene(2, CROP)
    np.testing.assert_array_equal(image, IMAGES[2][3:19, 32:96])
    np.testing.assert_array_equal(maps["mask"], LABELS[2][3:19, 32:96])
