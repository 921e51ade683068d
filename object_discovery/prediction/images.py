"""Read image files of any kind as RGB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from object_discovery.errors import CorruptFileError, UserError


class ImageFile(NamedTuple):
    """An image to read."""

    path: Path
    named: bool
    """The user gave the file itself, not a folder that it is in."""


def find_images(paths: Sequence[str | Path], warn: Callable[[str], None]) -> list[ImageFile]:
    """List image files, and those in folders in the order of their names; hidden files are left out.

    Args:
        paths: Files and folders, each file taken once; folders are not searched for further folders.
        warn: Called with a line for each file of a folder that is no image.

    Returns:
        Files that Pillow knows; what is damaged further on shows when they are read.

    Raises:
        UserError: If there is no such file or folder, a file is no image, or no image is left.
    """
    found: dict[Path, ImageFile] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"Expected an image or a folder, but {path} does not exist")
        named = not path.is_dir()
        inside = [path] if named else sorted(file for file in path.iterdir() if file.is_file())
        for file in inside:
            if not named and file.name.startswith("."):
                continue
            try:
                with Image.open(file):
                    found.setdefault(file, ImageFile(file, named))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                if named:
                    raise UserError(_reason(file, error)) from error
                warn(f"skipped: {_reason(file, error)}")
    if not found:
        raise UserError(f"Expected some images, but found none in {', '.join(map(str, paths)) or 'nothing'}")
    return list(found.values())


def read_image(path: str | Path) -> Image.Image:
    """Read an image as 8-bit RGB, turned as its EXIF orientation says.

    Transparent pixels are composited on white. 16-bit grey is scaled to 8 bits; grey of floats is taken to be in
    [0, 1]. Of an animation the first picture is read.

    Raises:
        CorruptFileError: If it is not an image that can be read as a whole.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptFileError(_reason(path, error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray((np.nan_to_num(np.asarray(image)).clip(0, 1) * 255).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is no image that Pillow can read"
    return f"{path} cannot be read as an image: {error}"
