"""Command line of `object-discovery convert`; see `tests/data/conversion` for the conversions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from object_discovery.cli.command import main
from tests.data.tfrecord_writer import example, random_scene, write


def test_records_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.tfrecords", [example(random_scene("tetrominoes", seed)) for seed in range(3)])
    target = tmp_path / "a.h5"
    flags = ["--limit", "2", "--num_workers", "1", "--no-progress"]
    assert main(["convert", "records", str(source), str(target), *flags]) == 0
    assert capsys.readouterr() == (f"{target}: 2 scenes\n", "")
    with h5py.File(target) as file:
        assert file
    assert main(["convert", "records", str(source), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", "records", str(source), str(target), "--overwrite"]) == 0
    assert capsys.readouterr().out == f"{target}: 3 scenes\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["records"], "source"),
        (["records", "a", "b", "--limit", "0"], "`limit` to be at least 1"),
        (["records", "no/such/file", "b"], "No such file"),
        (["sketchy", "no/such/folder", "b"], "no/such/folder"),
        (["tfrecords"], "followed by one of records, sketchy, labels"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert expected in error


@pytest.mark.parametrize("given", [True, False])
def test_label_maps_are_converted(given: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("object_discovery.data.conversion.label_maps")
    source, target = tmp_path / "ids", tmp_path / ("maps" if given else "ids_8bit")
    source.mkdir()
    Image.fromarray(np.array([[0, 26001], [26002, 26001]], np.uint16)).save(source / "a.png")
    assert main(["convert", "labels", str(source), *([str(target)] if given else []), "--no-progress"]) == 0
    assert capsys.readouterr().out == f"{target}: 1 label maps\n"
    with Image.open(target / "a.png") as image:
        labels = np.asarray(image)
    assert labels.dtype == np.uint8
    assert labels[0, 0] == 0
    assert {int(labels[0, 1]), int(labels[1, 0])} == {1, 2}
    assert labels[0, 1] == labels[1, 1]
