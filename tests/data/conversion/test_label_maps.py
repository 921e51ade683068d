from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from object_discovery import FolderDataModule
from object_discovery.data.conversion.label_maps import convert_label_maps
from object_discovery.data.readers.image_files import read_label_map
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError

IDS = np.array([[0, 26001, 26002], [24000, 65535, 0]], np.uint16)
LABELS = [[0, 2, 3], [1, 255, 0]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "ids"
    (folder / "aachen").mkdir(parents=True)
    Image.fromarray(IDS).save(folder / "aachen" / "a.png")
    Image.fromarray(IDS.astype(np.int32)).save(folder / "b.tif")
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 1] = [255, 0, 0]
    Image.fromarray(colours).save(folder / "c.PNG")
    return folder


@pytest.mark.parametrize("workers", [0, 2, None])
def test_every_label_map_below_a_folder_is_converted(source: Path, tmp_path: Path, workers: int | None) -> None:
    target = tmp_path / "labels"
    assert convert_label_maps(source, target, ignore=65535, workers=workers, progress=False) == 3
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert names == ["aachen/a.png", "b.png", "c.png"]
    assert read_label_map(target / "aachen" / "a.png").tolist() == LABELS
    assert read_label_map(target / "b.png").tolist() == LABELS
    assert read_label_map(target / "c.png").tolist() == [[0, 1, 0], [0, 0, 0]]


def test_without_ignored_ids_every_id_is_an_object(source: Path, tmp_path: Path) -> None:
    convert_label_maps(source, tmp_path / "labels", progress=False)
    assert read_label_map(tmp_path / "labels" / "b.png").tolist() == [[0, 2, 3], [1, 4, 0]]


def test_finished_files_are_left_alone_and_changed_ones_are_converted_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels"
    convert_label_maps(source, target, ignore=65535, progress=False)
    (target / "c.png").write_bytes(b"kept")
    os.utime(source / "b.tif", ns=(0, (target / "b.png").stat().st_mtime_ns + 10**9))
    (target / "b.png").write_bytes(b"old")
    os.utime(target / "b.png", ns=(0, 0))
    convert_label_maps(source, target, ignore=65535, progress=False)
    assert (target / "c.png").read_bytes() == b"kept"
    assert read_label_map(target / "b.png").tolist() == LABELS


def test_a_target_inside_the_source_is_not_converted_again(source: Path) -> None:
    for _ in range(2):
        assert convert_label_maps(source, source / "labels", progress=False) == 3


def test_mistakes_are_named_and_leave_nothing_half_written(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "labels"
    with pytest.raises(ValueError, match="`workers` to be at least 0, but got -1"):
        convert_label_maps(source, target, workers=-1)
    with pytest.raises(DatasetNotFoundError, match="is not a folder"):
        convert_label_maps(source / "b.tif", target)
    with pytest.raises(UserError, match="another folder than"):
        convert_label_maps(source, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match="found none"):
        convert_label_maps(tmp_path / "empty", target)
    Image.fromarray(np.arange(300, dtype=np.uint16)[None]).save(source / "many.png")
    with pytest.raises(CorruptFileError, match=r"many\.png: expected at most 254 objects in an image, but got 299"):
        convert_label_maps(source, target, workers=0, progress=False)
    assert not (target / "many.png").exists()
    (source / "many.png").write_bytes(b"no image")
    with pytest.raises(CorruptFileError, match=r"many\.png: expected a whole image"):
        convert_label_maps(source, target, workers=0, progress=False)
    (source / "many.png").unlink()
    Image.fromarray(IDS).save(source / "b.png")
    with pytest.raises(UserError, match="would both become"):
        convert_label_maps(source, target)


def test_the_folder_dataset_reads_large_ids_as_they_are(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{index}.png")
        ids = np.array([[0, 0, 26001, 26001]] * 4, np.uint16)
        Image.fromarray(ids).save(tmp_path / "masks" / f"{index}.png")
    data = FolderDataModule(data_root=str(tmp_path), resolution=4, num_workers=0)
    assert data.train_set[0]["mask"][0].tolist() == [0, 0, 1, 1]
