"""Reading of images and label maps from image files (PNG, JPEG, TIFF, ...)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from object_discovery.data.label_maps import compact_labels
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError, DatasetNotFoundError

Alpha = Literal["white", "drop"]
"""Treatment of transparent pixels, see `read_image`."""
_INTEGER_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # PIL modes of 16-bit and 32-bit grey images
_LABEL_MODES = ("1", "L", "P", "RGB", "RGBA", *_INTEGER_MODES)
_ORIENTATION = 0x0112  # EXIF tag; values from 5 on swap height and width
_OPAQUE = 255
_IGNORED_16_BITS = (1 << 16) - 1


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file.

    Args:
        path: The file.

    Yields:
        The PIL image.

    Raises:
        DatasetNotFoundError: If the file does not exist or is not readable.
        CorruptFileError: If it is not an image, or PIL cannot decode it within the block.
    """
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
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error and others
        reason = " ".join(str(error).split())
        raise CorruptFileError(f"{path}: expected a whole image, but it cannot be read ({reason})") from None


def read_image(path: str | os.PathLike[str], *, exif: bool = True, alpha: Alpha = "white") -> NDArray[np.uint8]:
    """Read an image as 8-bit RGB; training and prediction both use this function.

    Grey images are repeated to three channels and palettes are looked up. Transparent pixels (of an alpha channel or a
    palette) are composited on white. 16-bit grey is scaled to 8 bits, and floating-point grey is clipped to [0, 1]. Of
    an animation the first frame is read.

    Args:
        path: File of any format that PIL reads.
        exif: Apply the EXIF orientation. False: read the pixels as stored.
        alpha: `white`: composite transparent pixels on white. `drop`: ignore the alpha channel, as the official loaders
            of CLEVR and ClevrTex do.

    Returns:
        RGB image, uint8 `(H, W, 3)`.

    Raises:
        DatasetNotFoundError: If the file does not exist or is not readable.
        CorruptFileError: If it is not an image, damaged, or has integer values outside [0, 65535].

    Example:
        >>> read_image("photograph.jpg")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: photograph.jpg
    """
    path = Path(path)
    with open_image(path) as image:
        image.load()
        if exif:
            image = _apply_exif(image)
        if image.mode in _INTEGER_MODES:
            grey = np.rint(_check_values(path, np.asarray(image), (1 << 16) - 1) / 257)
            pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        elif image.mode == "F":
            grey = np.rint(np.nan_to_num(np.asarray(image)).clip(0, 1) * 255)
            pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        elif alpha == "white" and image.has_transparency_data:
            pixels = _on_white(image if image.mode == "RGBA" else image.convert("RGBA"))
        else:
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return pixels


def read_label_map(path: str | os.PathLike[str], *, relabel: bool = False) -> NDArray[np.uint8]:
    """Read a label map: the stored values of a grey image, or the palette indices of a palette image.

    Args:
        path: File of a lossless format, such as PNG or TIFF.
        relabel: Relabel maps with ids above 255 or with one RGB colour per object as 1, 2, 3, ... in each image, see
            `compact_labels`; 0 and black are the background, 65535 is ignored. False: raise an error.

    Returns:
        Labels, uint8 `(H, W)`: 0 background, 255 ignored.

    Raises:
        DatasetNotFoundError: If the file does not exist or is not readable.
        CorruptFileError: If it is not an image, damaged or of a lossy format; if it has labels above 255 or RGB
            colours, without `relabel`; or, with it, more than 254 objects.

    Example:
        >>> read_label_map("mask.png")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: mask.png
    """
    path = Path(path)
    with open_image(path) as image:
        ids = read_label_ids(path, image)
    if ids.ndim == 2 and (not ids.size or (ids.min() >= 0 and ids.max() <= IGNORED)):
        return ids.astype(np.uint8)
    if not relabel:
        got = f"{ids.min()} to {ids.max()}" if ids.ndim == 2 else "RGB colours"
        raise CorruptFileError(
            f"{path}: expected labels of 0 to {IGNORED} in one channel (grey or palette), but got {got}: "
            "`object-discovery convert labels FOLDER` converts them"
        )
    try:
        return compact_labels(ids, ignore=_IGNORED_16_BITS)
    except ValueError as error:
        raise CorruptFileError(f"{path}: {error}") from error


def read_label_ids(path: Path, image: Image.Image) -> NDArray[Any]:
    """Read the ids of a label map as stored, before any relabelling.

    Args:
        path: The file, for messages.
        image: The same file, see `open_image`.

    Returns:
        Integer ids `(H, W)`, or RGB colours, uint8 `(H, W, 3)`, in which transparent pixels are black.

    Raises:
        CorruptFileError: If the image has another mode, or a lossy format.
    """
    if image.mode not in _LABEL_MODES:
        raise CorruptFileError(
            f"{path}: expected a label map (grey, palette, or one RGB colour for each object), but got {image.mode}"
        )
    if image.format in ("JPEG", "MPO"):
        raise CorruptFileError(f"{path}: expected a label map of a lossless format, but got a JPEG: save it as PNG")
    image.load()
    ids = np.asarray(image)
    if image.mode == "RGBA":
        return ids[..., :3] * (ids[..., 3:] > 0)
    return ids // _bit_depth_scale(path) if (image.format, image.mode) == ("PNG", "L") else ids


def read_image_size(path: str | os.PathLike[str], *, exif: bool = True) -> tuple[int, int]:
    """Read the size of an image from its header.

    Args:
        path: File of any format that PIL reads.
        exif: Apply the EXIF orientation.

    Returns:
        Height and width of the array that `read_image` returns.

    Raises:
        DatasetNotFoundError: If the file does not exist or is not readable.
        CorruptFileError: If it is not an image.

    Example:
        >>> read_image_size("photograph.jpg")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: photograph.jpg
    """
    with open_image(Path(path)) as image:
        width, height = image.size
        with suppress(Exception):  # damaged EXIF data are ignored
            if exif and image.getexif().get(_ORIENTATION, 1) >= 5:
                return width, height
        return height, width


def _bit_depth_scale(path: Path) -> int:
    """Return the factor by which PIL scales the values of a grey PNG of 1, 2 or 4 bits."""
    with open(path, "rb") as file:
        depth = file.read(25)[24]  # PNG header: signature, length, IHDR, width, height, bit depth
    return int(255 // ((1 << depth) - 1)) if depth < 8 else 1


def _on_white(image: Image.Image) -> NDArray[np.uint8]:
    """Composite an RGBA image on white; fully opaque images take a fast path."""
    pixels = np.asarray(image)
    if pixels[..., 3].min(initial=_OPAQUE) == _OPAQUE:
        return np.array(pixels[..., :3], order="C")
    white = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(white, image).convert("RGB"))


def _apply_exif(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of an image; damaged EXIF data are ignored."""
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    return image


def _check_values(path: Path, values: NDArray[Any], largest: int) -> NDArray[Any]:
    if values.size and not (values.min() >= 0 and values.max() <= largest):
        got = f"{values.min()} to {values.max()}"
        raise CorruptFileError(f"{path}: expected values of 0 to {largest}, but got {got}")
    return values
