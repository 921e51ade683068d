import subprocess
import sys
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.inspect.description import describe, show
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.clevr import write_clevr
from tests.data.layouts.clevrtex import write_clevrtex
from tests.data.layouts.coco import write_coco
from tests.data.layouts.folder import write_folder, write_images
from tests.data.layouts.objects_room import write_objects_room
from tests.data.layouts.ravens import write_ravens_file
from tests.data.layouts.shapes3d import images_and_factors, write_shapes3d
from tests.data.layouts.sketchy import write_sketchy
from tests.data.layouts.voc import write_voc
from tests.data.scene_files import make_scenes, write_own, write_published
from tests.data.tfrecord_writer import example, random_scene, reference_labels, write

SCRIPT = Path(__file__).parents[3] / "data_scripts" / "describe.py"


def text(root: Path, **options: int | str) -> str:
    out = StringIO()
    show(describe(root, **options), Console(file=out, width=100))  # type: ignore[arg-type]
    return out.getvalue()


def histogram(counts: NDArray[np.int64]) -> dict[int, int]:
    return {count: int(scenes) for count, scenes in enumerate(np.bincount(counts)) if scenes}


def test_clevr_has_object_annotations_instead_of_label_maps(tmp_path: Path) -> None:
    description = describe(write_clevr(tmp_path), num=3)
    assert (description.dataset, description.variant, description.layout, description.exact) == (
        "clevr",
        None,
        "PNG files",
        True,
    )
    assert {split: size for split, (size, _) in description.splits.items()} == {"train": 12, "val": 5, "test": 4}
    assert (description.maps, description.targets, description.sizes) == ([], {"objects": (10, 19)}, [(32, 48)])
    # scene i has 3 + i % 8 objects; the test split has no annotations
    assert histogram(description.counts) == {3: 3, 4: 3, 5: 3, 6: 3, 7: 2, 8: 1, 9: 1, 10: 1}
    for scene, (split, number) in zip(description.examples, [("train", 0), ("train", 10), ("test", 3)], strict=True):
        path = tmp_path / "CLEVR_v1.0" / "images" / split / f"CLEVR_{split}_{number:06d}.png"
        np.testing.assert_array_equal(scene.image, np.asarray(Image.open(path))[..., :3])
        assert scene.mask is None
    assert "objects in 17 of 21 scenes" in text(description.root)


def test_clevrtex_objects_are_counted_in_the_whole_image(tmp_path: Path) -> None:
    description = describe(write_clevrtex(tmp_path))
    assert (description.dataset, description.variant, description.sizes) == ("clevrtex", "full", [(30, 40)])
    assert histogram(description.counts) == {3: 5, 4: 5, 5: 5, 6: 5}  # one more than after the crop in even scenes
    write_clevrtex(tmp_path, "camo", range(10))
    assert describe(tmp_path, variant="camo").num_images == 10


def test_photographs_are_not_cropped(tmp_path: Path) -> None:
    description = describe(write_coco(tmp_path), num=18)
    assert (description.dataset, description.maps, description.sizes) == (
        "coco",
        ["mask", "classes"],
        [(24, 32), (30, 20)],
    )
    assert histogram(description.counts) == {0: 5, 1: 6, 2: 7}  # image k, 1 to 14 and 101 to 104, has k % 3
    assert "2 different, such as 24 x 32 and 30 x 20 (of 18 images)" in text(tmp_path, num=18)


def test_voc_and_folder_are_described(tmp_path: Path) -> None:
    description = describe(write_voc(tmp_path / "voc"))
    assert (description.dataset, description.num_images, description.maps) == ("voc", 15, ["mask", "classes"])
    assert histogram(description.counts) == {0: 4, 1: 6, 2: 5}
    (tmp_path / "folder").mkdir()
    description = describe(write_folder(tmp_path / "folder"), num=2)
    assert (description.dataset, description.num_images, description.sizes) == ("folder", 14, [(16, 24)])
    assert histogram(description.counts) == {0: 5, 1: 5, 2: 4}
    unlabelled = describe(write_images(tmp_path / "[images]", 5))
    assert "[images]" in text(unlabelled.root)
    assert (unlabelled.maps, unlabelled.counts.size) == ([], 0)


def test_hdf5_files_of_objects_room_and_ravens_are_described(tmp_path: Path) -> None:
    write_objects_room(tmp_path)
    description = describe(tmp_path, variant="six_objects")
    assert (description.dataset, description.variant, description.splits["test"][0]) == (
        "objects_room",
        "six_objects",
        4,
    )
    ravens = tmp_path / "ravens_x_train.h5"
    write_ravens_file(ravens, [3, 8])
    description = describe(ravens, num=1)
    assert (description.dataset, description.maps, histogram(description.counts)) == (
        "ravens",
        ["mask", "entities"],
        {3: 3, 8: 3},
    )
    assert description.sizes == [(480, 640)]  # before the crop


def test_shapes3d_is_read_without_a_rearranged_copy(tmp_path: Path) -> None:
    description = describe(write_shapes3d(tmp_path), num=4)
    assert (description.dataset, description.targets, histogram(description.counts)) == (
        "shapes3d",
        {"factors": (6,)},
        {1: 92},
    )
    images, _ = images_and_factors()
    np.testing.assert_array_equal([scene.image for scene in description.examples], images[[0, 30, 61, 91]])
    assert [path.name for path in tmp_path.iterdir()] == ["3dshapes.h5"]


def test_sketchy_has_neither_label_maps_nor_object_counts(tmp_path: Path) -> None:
    description = describe(write_sketchy(tmp_path))
    assert (description.dataset, description.num_images, description.sizes, description.counts.size) == (
        "sketchy",
        140,
        [(128, 128)],
        0,
    )
    printed = text(tmp_path)
    assert "objects: not known" in printed
    assert "none: only the reconstruction can be scored" in printed


def test_objects_are_counted_in_a_sample_unless_the_file_stores_counts(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3] * 10)
    write_published(tmp_path / "published.h5", images, labels, entities=4)
    description = describe(tmp_path / "published.h5", sample=7)
    assert (description.dataset, description.counts.size) == ("tetrominoes", 7)
    assert description.counts.tolist() == [1 + index % 3 for index in (0, 5, 10, 14, 19, 24, 29)]
    assert "objects in 7 of 30 scenes" in text(tmp_path / "published.h5", sample=7)
    write_own(tmp_path / "own.h5", images, labels, "tetrominoes", entities=4)
    assert histogram(describe(tmp_path / "own.h5", sample=1).counts) == {1: 10, 2: 10, 3: 10}
    assert "objects in all scenes" in text(tmp_path / "own.h5", sample=1)


def test_tfrecords_are_described_without_writing_files(tmp_path: Path) -> None:
    scenes = [random_scene("tetrominoes", seed) for seed in range(12)]
    path = write(tmp_path / "train.tfrecords", [example(scene) for scene in scenes])
    description = describe(tmp_path, num=12, sample=13)
    assert (description.dataset, description.layout, description.exact, description.num_images) == (
        "tetrominoes",
        "TFRecord",
        True,
        12,
    )
    for scene, read in zip(scenes, description.examples, strict=True):
        np.testing.assert_array_equal(read.image, scene["image"])
        np.testing.assert_array_equal(read.mask, reference_labels(scene, "tetrominoes"))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert not describe(path, num=1, sample=12).exact
    assert "about" in text(path, num=1, sample=12)


def test_the_number_of_records_is_estimated_from_the_file_size(tmp_path: Path) -> None:
    scenes = [example(random_scene("clevr_with_masks", 0))] * 12
    description = describe(write(tmp_path / "a.tfrecords", scenes, "plain"), num=1, sample=6)
    assert not description.exact
    assert 11 <= description.num_images <= 13


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="No such file or folder"):
        describe(tmp_path / "none")
    with pytest.raises(DatasetNotFoundError, match=r"to hold a dataset, but it is empty"):
        describe(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetNotFoundError, match=r"layout is not known: give `--dataset` with one of clevr, "):
        describe(tmp_path)
    with pytest.raises(DatasetNotFoundError, match=r"Expected argument `dataset` to be one of .*, but got 'mnist'"):
        describe(tmp_path, dataset="mnist")
    for name in ("num", "sample"):
        with pytest.raises(ValueError, match=f"Expected argument `{name}` to be at least 1, but got 0"):
            describe(tmp_path, **{name: 0})  # type: ignore[arg-type]
    write_folder(tmp_path)
    with pytest.raises(UserError, match="Expected argument `variant`"):
        describe(tmp_path, variant="full")


def test_broken_files_are_listed_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    complete = describe(tmp_path, num=100)
    assert complete.broken == []
    (tmp_path / "images" / "01.jpg").write_bytes(b"damaged")
    (tmp_path / "masks" / "b" / "02.png").write_bytes(b"damaged")
    result = describe(tmp_path, num=100)
    assert result.num_images == complete.num_images
    assert len(result.examples) == len(complete.examples) - 2
    assert len(result.counts) == len(complete.counts) - 2
    assert sorted(message.split(": ")[0][-6:] for message in result.broken) == ["01.jpg", "02.png"]
    show(result)
    assert capsys.readouterr().err.count("warning: ") == 2
    for path in (tmp_path / "images").rglob("*.*"):
        path.write_bytes(b"damaged")
    with pytest.raises(CorruptFileError, match="expected a whole image"):
        describe(tmp_path)


def test_a_damaged_hdf5_file_is_refused(tmp_path: Path) -> None:
    write_shapes3d(tmp_path)
    with h5py.File(tmp_path / "3dshapes.h5", "r+") as file:
        del file["labels"]
        file["labels"] = np.zeros((3, 6))
    with pytest.raises(CorruptFileError, match="expected labels for every image"):
        describe(tmp_path)


def test_the_command_writes_a_contact_sheet(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    sheet = tmp_path / "new" / "sheet.png"
    command = [sys.executable, str(SCRIPT), str(root), "--out", str(sheet), "--num", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "folder" in done.stdout
    assert done.stdout.endswith(f"{sheet}: 3 scenes\n")
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"


def test_the_command_reports_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from describe import main

    root = write_images(tmp_path / "images", 4)
    file = tmp_path / "file"
    file.touch()
    for arguments, message in [
        ([str(tmp_path / "none")], "error: No such file or folder"),
        ([str(root), "--num", "0"], "error: Expected argument `num` to be at least 1"),
        ([str(root), "--dataset", "mnist"], "error: Expected argument `dataset` to be one of"),
        ([str(root), "--out", str(file / "sheet.png")], "error: Expected argument `out` to be writable"),
        ([str(root), "--out", str(tmp_path)], "error: "),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1
    assert main([]) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: root\n"
    monkeypatch.setattr("object_discovery.data.inspect.description.describe", _interrupted)
    assert main([str(root)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def _interrupted(**_: object) -> None:
    raise KeyboardInterrupt


def test_converted_files_are_described_like_their_tfrecords(tmp_path: Path) -> None:
    scenes = [random_scene("multi_dsprites", seed, variant="colored_on_colored") for seed in range(5)]
    path = write(tmp_path / "a.tfrecords", [example(scene) for scene in scenes])
    records = describe(path)
    convert_tfrecord(path, tmp_path / "a.h5")
    converted = describe(tmp_path)  # of a folder with both, the HDF5 file is read
    assert converted.layout == "HDF5"
    assert (converted.dataset, converted.variant) == (records.dataset, records.variant)
    assert sorted(converted.counts) == sorted(records.counts)
