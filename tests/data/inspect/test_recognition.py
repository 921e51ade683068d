from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from object_discovery.data.inspect.recognition import find_records, recognise
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from tests.data.layouts.clevr import write_clevr
from tests.data.layouts.clevrtex import write_clevrtex
from tests.data.layouts.coco import write_coco
from tests.data.layouts.folder import write_folder, write_images
from tests.data.layouts.objects_room import write_objects_room
from tests.data.layouts.ravens import write_ravens_file
from tests.data.layouts.shapes3d import write_shapes3d
from tests.data.layouts.sketchy import write_sketchy
from tests.data.layouts.voc import write_voc
from tests.data.scene_files import make_scenes, write_own, write_published


def write_ravens(root: Path) -> Path:
    write_ravens_file(root / "ravens_robot_data_train.h5", [3])
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "clevr": write_clevr,
    "clevrtex": write_clevrtex,
    "coco": write_coco,
    "folder": write_folder,
    "objects_room": write_objects_room,
    "ravens": write_ravens,
    "shapes3d": write_shapes3d,
    "sketchy": write_sketchy,
    "voc": write_voc,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised(tmp_path: Path, name: str) -> None:
    assert recognise(LAYOUTS[name](tmp_path)) == name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("clevr", ""),
        ("clevrtex", "clevrtex_full"),
        ("sketchy", "processed"),
        ("voc", "VOCdevkit"),
        ("voc", "VOCdevkit/VOC2012"),
        ("ravens", "ravens_robot_data_train.h5"),
        ("shapes3d", "3dshapes.h5"),
        ("objects_room", "objects_room_train.h5"),
    ],
)
def test_subfolders_and_single_files_are_recognised(tmp_path: Path, name: str, path: str) -> None:
    LAYOUTS[name](tmp_path)
    assert recognise(tmp_path / path) == name


def test_coco_with_an_images_folder_is_recognised(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "images").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).rename(tmp_path / "images" / split)
    assert recognise(tmp_path) == "coco"


def test_hdf5_files_of_both_formats_are_recognised(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3])
    write_published(tmp_path / "a.h5", images, labels, entities=4)
    assert recognise(tmp_path / "a.h5") == recognise(tmp_path) == "tetrominoes"
    (tmp_path / "own").mkdir()
    write_own(tmp_path / "own" / "b.hdf5", images, labels, "scenes", entities=4)
    assert recognise(tmp_path / "own") == "scenes"


def test_other_hdf5_files_are_not_recognised(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3], 20, 30)
    write_published(tmp_path / "a.h5", images, labels, entities=4)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["weights"] = np.zeros(3)
    assert recognise(tmp_path / "a.h5") is recognise(tmp_path / "b.h5") is recognise(tmp_path) is None
    write_published(tmp_path / "c.h5", *make_scenes([1, 2, 3]), entities=4)
    assert recognise(tmp_path) == "tetrominoes"  # the first file that is recognised


def test_folders_with_visible_images_are_recognised(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "notes.txt") is None
    write_images(tmp_path / "holiday" / "2020", 1)
    assert recognise(tmp_path) == "folder"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert recognise(tmp_path / "a.png") is None  # a single image is not a dataset


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_shapes3d(tmp_path)
    path = tmp_path / "3dshapes.h5"
    path.write_bytes(path.read_bytes()[:1000])
    for root in (tmp_path, path):
        with pytest.raises(CorruptFileError, match=r"3dshapes\.h5: expected a whole HDF5 file, but it cannot"):
            recognise(root)
    with pytest.raises(DatasetNotFoundError, match=r"No such file or folder: .*none"):
        recognise(tmp_path / "none")


def test_tfrecords_are_found_in_folders_without_hdf5_files(tmp_path: Path) -> None:
    assert find_records(tmp_path) is None
    for name in ("b.tfrecords", "a.tfrecord"):
        (tmp_path / name).touch()
        assert find_records(tmp_path / name) == tmp_path / name
    assert find_records(tmp_path) == tmp_path / "a.tfrecord"
    (tmp_path / "a.h5").touch()
    assert find_records(tmp_path) is None
