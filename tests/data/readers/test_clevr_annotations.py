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


def test_annotations_equal_the_json_file(path: Path) -> None:
    scenes = json.loads(path.read_text())["scenes"]
    annotations = read_annotations(path, "train")
    assert annotations.numbers.tolist() == [0, 4, 2]
    assert np.diff(annotations.starts).tolist() == [len(scene["objects"]) for scene in scenes] == [3, 7, 5]
    objects = [attributes for scene in scenes for attributes in scene["objects"]]
    coords = [attributes["3d_coords"] for attributes in objects]
    np.testing.assert_array_equal(annotations.coords, np.array(coords, np.float32))
    centres = [attributes["pixel_coords"][:2] for attributes in objects]
    np.testing.assert_array_equal(annotations.pixels, np.array(centres, np.float32))
    assert annotations.codes.shape == (15, 4)


def test_the_scenes_file_is_parsed_once_until_it_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_annotations(path, "train")
    (cache_file,) = path.parent.glob("CLEVR_train_scenes.json.*.cache")
    with monkeypatch.context() as patch:
        patch.setattr("object_discovery.data.readers.clevr_annotations._parse", None)  # not callable
        for computed, cached in zip(first, read_annotations(path, "train"), strict=True):
            np.testing.assert_array_equal(computed, cached)
    cache_file.write_bytes(cache_file.read_bytes()[:-100])
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
def test_damaged_files_raise_one_line_with_their_path(path: Path, change: Callable[[str], str], reason: str) -> None:
    path.write_text(change(path.read_text()))
    with pytest.raises(
        CorruptFileError, match=f"{re.escape(str(path))}: expected the scenes of CLEVR.*{reason}"
    ) as error:
        read_annotations(path, "train")
    assert "\n" not in str(error.value)


def test_binary_files_and_folders_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(CorruptFileError, match=f"{re.escape(str(path))}: expected a JSON file, but it is none"):
        read_annotations(path, "train")
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetNotFoundError, match=f"Cannot read {re.escape(str(path))}: Is a directory"):
        read_annotations(path, "train")
