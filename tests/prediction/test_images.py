from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from object_discovery.errors import CorruptFileError, UserError
from object_discovery.prediction.images import find_images, read_image

SIZE = (6, 4)


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(path)
    assert image.mode == "RGB"
    colour = image.getpixel((x, y))
    assert isinstance(colour, tuple)
    return tuple(int(value) for value in colour)


@pytest.mark.parametrize(
    ("mode", "fill", "ending", "expected"),
    [
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), "png", (204, 204, 204)),
        ("LA", (40, 0), "png", (255, 255, 255)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 257 * 99, "png", (99, 99, 99)),
        ("I;16", 65535, "tif", (255, 255, 255)),
        ("I", 257 * 99, "tif", (99, 99, 99)),
        ("F", 0.2, "tif", (51, 51, 51)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode: str, fill: Any, ending: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    Image.new(mode, SIZE, fill).save(tmp_path / f"a.{ending}")
    assert pixel(tmp_path / f"a.{ending}") == expected


def test_palettes_and_their_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=0)
    assert pixel(tmp_path / "opaque.png") == (0, 0, 0)
    assert pixel(tmp_path / "transparent.png") == (255, 255, 255)
    assert pixel(tmp_path / "transparent.png", 1) == (200, 100, 50)


def test_exif_orientation_is_followed(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    seen = read_image(tmp_path / "a.png")
    assert seen.size == (4, 6)
    assert np.argwhere(np.asarray(seen)[..., 0]).tolist() == [[0, 3]]


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(CorruptFileError, match=r"half\.png cannot be read as an image"):
        read_image(tmp_path / "half.png")


def test_folders_give_their_images_in_order_and_warn_of_other_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", ".hidden.png"):
        Image.new("RGB", SIZE).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    warnings: list[str] = []
    found = find_images([tmp_path, tmp_path / "b.png"], warnings.append)
    assert [(file.path.name, file.named) for file in found] == [("a.jpg", False), ("b.png", False)]
    assert warnings == [f"skipped: {tmp_path / 'notes.txt'} is no image that Pillow can read"]


def test_what_is_no_image_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"notes\.txt is no image that Pillow can read"):
        find_images([tmp_path / "notes.txt"], print)
    with pytest.raises(UserError, match=r"Expected an image or a folder, but .*nowhere does not exist"):
        find_images([tmp_path / "nowhere"], print)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"Expected some images, but found none in .*empty"):
        find_images([tmp_path / "empty"], print)


def test_images_too_large_to_be_honest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"bomb\.png cannot be read as an image: .*exceeds limit"):
        find_images([tmp_path / "bomb.png"], print)
    with pytest.raises(CorruptFileError, match="exceeds limit"):
        read_image(tmp_path / "bomb.png")
