from pathlib import Path

import pytest
from PIL import Image

from object_discovery.errors import UserError
from object_discovery.prediction.images import find_images

SIZE = (6, 4)


def test_images_of_folders_are_sorted_and_other_files_skipped_with_a_warning(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", ".hidden.png"):
        Image.new("RGB", SIZE).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    warnings: list[str] = []
    images, unreadable = find_images([tmp_path, tmp_path / "b.png"], warnings.append)
    assert [path.name for path in images] == ["a.jpg", "b.png"]
    assert unreadable == []
    assert warnings == [f"skipped: {tmp_path / 'notes.txt'} is no image that Pillow can read"]


def test_given_files_that_are_no_images_are_returned(tmp_path: Path) -> None:
    notes, image = tmp_path / "notes.txt", tmp_path / "a.png"
    notes.write_text("no image")
    Image.new("RGB", SIZE).save(image)
    warnings: list[str] = []
    assert find_images([notes, image], warnings.append) == ([image], [notes])
    assert warnings == [f"skipped: {notes} is no image that Pillow can read"]


def test_missing_files_and_folders_without_images_are_refused(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    with pytest.raises(UserError, match=r"notes\.txt is no image that Pillow can read"):
        find_images([notes], print)
    with pytest.raises(UserError, match=r"Expected an image or a folder, but .*nowhere does not exist"):
        find_images([notes, tmp_path / "nowhere"], print)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"Expected some images, but found none in .*empty"):
        find_images([tmp_path / "empty"], print)


def test_images_above_the_limit_of_pillow_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"bomb\.png cannot be read as an image: "):
        find_images([tmp_path / "bomb.png"], print)
