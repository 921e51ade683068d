"""Object annotations of CLEVR, from the published `CLEVR_*_scenes.json`."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.object_encoding import ATTRIBUTES, MAX_OBJECTS, attribute_codes
from object_discovery.data.readers.cache import cached_arrays
from object_discovery.errors import CorruptFileError, DatasetNotFoundError

_PARSE_ERRORS = (ValueError, TypeError, LookupError, AttributeError)  # raised by a file of another structure


class Annotations(NamedTuple):
    """Objects of N scenes, concatenated: T objects in total."""

    numbers: NDArray[np.int64]
    """Scene numbers, as in the names of the images, `(N,)`."""
    starts: NDArray[np.int64]
    """Offset of each scene's first object, and T, `(N + 1,)`."""
    coords: NDArray[np.float32]
    """3D coordinates x, y, z in scene units, `(T, 3)`."""
    pixels: NDArray[np.float32]
    """Centres in the published image, column and row in pixels, `(T, 2)`."""
    codes: NDArray[np.uint8]
    """Attribute values as indices, see `attribute_codes`, `(T, 4)`."""


def read_annotations(path: Path, split: str) -> Annotations:
    """Read an annotation file; later calls read the cache.

    Args:
        path: The file `CLEVR_train_scenes.json` or `CLEVR_val_scenes.json`.
        split: Split that the scenes must belong to, `train` or `val`.

    Returns:
        Objects of all scenes.

    Raises:
        CorruptFileError: If the file is truncated, damaged or not of this format.
        DatasetNotFoundError: If the file does not exist or is not readable.

    Example:
        >>> read_annotations(Path("CLEVR_train_scenes.json"), "train")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot read CLEVR_train_scenes.json: No such file or directory
    """
    try:
        return Annotations(**cached_arrays(path, "objects", split, lambda: _read(path, split)._asdict()))
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot read {path}: {error.strerror}") from None


def _read(path: Path, split: str) -> Annotations:
    try:
        return _parse(path.read_bytes().decode(), split)
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path}: expected a JSON file, but it is none ({error})") from None
    except _PARSE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise CorruptFileError(
            f"{path}: expected the scenes of CLEVR, whole, but they cannot be read ({reason})"
        ) from None


def _parse(text: str, split: str) -> Annotations:
    numbers, counts, coords, pixels, codes = array("q"), array("q"), array("f"), array("f"), array("B")
    image_name = re.compile(rf"CLEVR_{split}_(\d{{6}})\.png")
    for scene in _iterate_scenes(text):
        match, objects = image_name.fullmatch(scene["image_filename"]), scene["objects"]
        if not match:
            raise ValueError(f"expected a scene of {split}, but got {scene['image_filename']!r}")
        if len(objects) > MAX_OBJECTS:
            raise ValueError(f"expected at most {MAX_OBJECTS} objects, but {match[0]} has {len(objects)}")
        numbers.append(int(match[1]))
        counts.append(len(objects))
        for attributes in objects:
            x, y, z = attributes["3d_coords"]
            coords.extend((x, y, z))
            pixels.extend(attributes["pixel_coords"][:2])
            codes.extend(attribute_codes(attributes))
    return Annotations(
        np.array(numbers, np.int64),
        np.cumsum([0, *counts]),
        np.array(coords, np.float32).reshape(-1, 3),
        np.array(pixels, np.float32).reshape(sum(counts), 2),
        np.array(codes, np.uint8).reshape(-1, len(ATTRIBUTES)),
    )


def _iterate_scenes(text: str) -> Iterator[Any]:
    """Parse the scenes one by one; parsing the whole file takes several times its size in memory."""
    start = re.search(r'"scenes"\s*:\s*\[\s*', text)
    if not start:
        raise ValueError("there is no list `scenes`")
    decoder, separator = json.JSONDecoder(), re.compile(r"[\s,]*")
    position = start.end()
    while text[position : position + 1] not in ("]", ""):
        scene, position = decoder.raw_decode(text, position)
        yield scene
        match = separator.match(text, position)
        assert match
        position = match.end()
    json.loads(f"{text[: start.end()]}{text[position:]}")  # the rest of the file must be valid JSON, too
