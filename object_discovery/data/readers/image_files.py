"""Read photographs and label maps from PNG, JPEG and other image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from object_discovery.errors import CorruptFileError, DatasetNotFoundError

_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's names of grey with 16 bits
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on height and width change places
_ALPHA_LAST = ("LA", "PA", "RGBA", "RGBX")


def read_image(path: str | os.PathLike[str], *, exif: bool = True) -> NDArray[np.uint8]:
    """Read an image as colours.

    Grey is repeated, a palette is looked up, and 16 bits are scaled to 8. Alpha is dropped, not blended: the first
    three channels are taken as they are. Of an animation the first picture is read.

    Args:
        path: A file of any kind that PIL reads.
        exif: Turn the image as its EXIF orientation says. False: the pixels as they are stored.

    Returns:
        Colours `(H, W, 3)`.

    Raises:
        DatasetNotFoundError: If there is no such file, or it may not be read.
        CorruptFileError: If it is no image, or damaged.

    Example:
        >>> read_image("photograph.jpg")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: photograph.jpg
    """
    path = Path(path)
    with _opened(path) as image:
        image.load()
        if exif:
            image = _turned(image)
        if image.mode == "F":
            raise CorruptFileError(f"{path}: expected an image of 8 or 16 bits, but it holds floating-point numbers")
        if image.mode in _SIXTEEN_BITS:
            grey = _in_range(path, np.asarray(image), (1 << 16) - 1)
            colours = np.rint(grey / 257).astype(np.uint8)[..., None]
        elif image.mode in _ALPHA_LAST:
            image = image.convert("RGBA") if image.mode == "PA" else image
            colours = np.asarray(image)[..., :-1]
        else:
            colours = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else np.array(colours, order="C")


def read_label_map(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a label map: the indices of a palette, or the values of a grey image, as they are stored.

    Args:
        path: A file of one channel without loss, such as a PNG; 16 bits are fine if no label is above 255.

    Returns:
        Labels `(H, W)`.

    Raises:
        DatasetNotFoundError: If there is no such file, or it may not be read.
        CorruptFileError: If it is no image, damaged, has several channels, loses details, or has labels above 255.

    Example:
        >>> read_label_map("mask.png")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: mask.png
    """
    path = Path(path)
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P", *_SIXTEEN_BITS):
            raise CorruptFileError(
                f"{path}: expected a label map of one channel (grey or palette), but got {image.mode}: "
                "save the labels as indices"
            )
        if image.format in ("JPEG", "MPO"):
            raise CorruptFileError(f"{path}: expected a label map without loss, but got a JPEG: save it as PNG")
        image.load()
        labels = _in_range(path, np.asarray(image), 255).astype(np.uint8)
        return labels // _scale(path) if (image.format, image.mode) == ("PNG", "L") else labels


def read_image_size(path: str | os.PathLike[str], *, exif: bool = True) -> tuple[int, int]:
    """Read the size of an image from its header.

    Args:
        path: A file of any kind that PIL reads.
        exif: Turn the image as its EXIF orientation says.

    Returns:
        Height and width of what `read_image` gives.

    Raises:
        DatasetNotFoundError: If there is no such file, or it may not be read.
        CorruptFileError: If it is no image.

    Example:
        >>> read_image_size("photograph.jpg")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: photograph.jpg
    """
    with _opened(Path(path)) as image:
        width, height = image.size
        with suppress(Exception):  # a damaged EXIF says nothing
            if exif and image.getexif().get(_ORIENTATION, 1) >= 5:
                return width, height
        return height, width


def _scale(path: Path) -> int:
    """Return what PIL multiplies the values of a grey PNG of less than 8 bits by."""
    with open(path, "rb") as file:
        depth = file.read(25)[24]  # the header of a PNG: signature, length, IHDR, width, height, bits
    return int(255 // ((1 << depth) - 1)) if depth < 8 else 1


def _turned(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; a damaged EXIF says nothing."""
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    return image


def _in_range(path: Path, values: NDArray[Any], largest: int) -> NDArray[Any]:
    if values.size and not (values.min() >= 0 and values.max() <= largest):
        got = f"{values.min()} to {values.max()}"
        raise CorruptFileError(f"{path}: expected values of 0 to {largest}, but got {got}")
    return values


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, and say in one line what is wrong where it cannot be read."""
    try:
        with Image.open(path) as image:
            yield image
    except CorruptFileError:
        raise
    except FileNotFoundError:
        raise DatasetNotFoundError(f"No such file: {path}") from None
    except PermissionError:
        raise DatasetNotFoundError(f"Cannot read {path}: permission denied") from None
    except IsADirectoryError:
        raise CorruptFileError(f"{path}: expected an image, but got a folder") from None
    except Exception as error:  # PIL fails in many ways, mostly by OSError, SyntaxError, ValueError, struct.error
        reason = " ".join(str(error).split())
        raise CorruptFileError(f"{path}: expected a whole image, but it cannot be read ({reason})") from None
