import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from object_discovery.data.readers.clevr_annotations import read_annotations
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from tests.data.layouts.clevr import make_scene, write_scenes_file


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "scenes" / "CLEVR_train_scenes.json"
    write_scenes_file(path, [make_scene("train", number, 3 + number) for number in (0, 4, 2)])
    return path


def test_annotations_are_those_of_the_file(path: Path) -> None:
    scenes = json.loads(path.read_text())["scenes"]
    found = read_annotations(path, "train")
    assert found.numbers.tolist() == [0, 4, 2]
    assert np.diff(found.starts).tolist() == [len(scene["objects"]) for scene in scenes] == [3, 7, 5]
    objects = [described for scene in scenes for described in scene["objects"]]
    np.testing.assert_array_equal(found.coords, np.array([one["3d_coords"] for one in objects], np.float32))
    centres = [one["pixel_coords"][:2] for one in objects]
    np.testing.assert_array_equal(found.pixels, np.array(centres, np.float32))
    assert found.codes.shape == (15, 4)


def test_the_scenes_file_is_parsed_once_until_it_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_annotations(path, "train")
    (kept,) = path.parent.glob("CLEVR_train_scenes.json.*.cache")
    with monkeypatch.context() as patch:
        patch.setattr("object_discovery.data.readers.clevr_annotations._annotations", None)  # cannot be called
        for then, now in zip(first, read_annotations(path, "train"), strict=True):
            np.testing.assert_array_equal(then, now)
    kept.write_bytes(kept.read_bytes()[:-100])
    np.testing.assert_array_equal(read_annotations(path, "train").coords, first.coords)
    write_scenes_file(path, [make_scene("train", number, 1) for number in range(5)])
    np.testing.assert_array_equal(np.diff(read_annotations(path, "train").starts), 1)


def damage(change: Callable[[Any], Any]) -> Callable[[str], str]:
    def changed(text: str) -> str:
        content = json.loads(text)
        change(content["scenes"][2])
        return json.dumps(content)

    return changed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], ""),
        (lambda text: text[:-1], ""),
        (lambda text: text[: text.rindex("]")], ""),
        (lambda text: text[: text.index("[", text.index("scenes")) + 1], ""),
        (lambda text: "", "no list `scenes`"),
        (lambda text: '{"images": []}', "no list `scenes`"),
        (lambda text: '{"scenes": [1, 2]}', ""),
        (damage(lambda scene: scene.pop("objects")), "'objects'"),
        (damage(lambda scene: scene["objects"][0].update(shape="cone")), "the shape of an object .* got 'cone'"),
        (damage(lambda scene: scene["objects"][0].update({"3d_coords": [1, 2]})), ""),
        (damage(lambda scene: scene["objects"][0].update({"pixel_coords": [1]})), ""),
        (damage(lambda scene: scene["objects"][0].update({"pixel_coords": None})), ""),
        (damage(lambda scene: scene["objects"].extend(10 * scene["objects"])), "at most 10 objects, but .* has 55"),
        (damage(lambda scene: scene.update(image_filename="CLEVR_val_000002.png")), "expected a scene of train"),
    ],
)
def test_damaged_scenes_files_are_named(path: Path, change: Callable[[str], str], reason: str) -> None:
    path.write_text(change(path.read_text()))
    with pytest.raises(
        CorruptFileError, match=f"{re.escape(str(path))}: expected the scenes of CLEVR.*{reason}"
    ) as error:
        read_annotations(path, "train")
    assert "\n" not in str(error.value)


def test_scenes_files_that_cannot_be_read(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(CorruptFileError, match=f"{re.escape(str(path))}: expected a JSON file, but it is none"):
        read_annotations(path, "train")
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetNotFoundError, match=f"Cannot read {re.escape(str(path))}: Is a directory"):
        read_annotations(path, "train")
