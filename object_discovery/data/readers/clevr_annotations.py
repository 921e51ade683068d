"""The objects of CLEVR's scenes, read from the published files of scenes."""

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

_WRONG = (ValueError, TypeError, LookupError, AttributeError)  # how a file of another layout shows


class Annotations(NamedTuple):
    """The objects of N scenes, T in all, one scene after the other."""

    numbers: NDArray[np.int64]
    """Numbers of the scenes, `(N,)`."""
    starts: NDArray[np.int64]
    """Where each scene's objects start, and the end of the last, `(N + 1,)`."""
    coords: NDArray[np.float32]
    """Places in the scene, x, y and z, `(T, 3)`."""
    pixels: NDArray[np.float32]
    """Centres in the published image, column and row, `(T, 2)`."""
    codes: NDArray[np.uint8]
    """Attributes, see `attribute_codes`, `(T, 4)`."""


def read_annotations(path: Path, split: str) -> Annotations:
    """Read a file of scenes, from what is kept of it if it was read before.

    Args:
        path: The file `CLEVR_train_scenes.json` or `CLEVR_val_scenes.json`.
        split: The split whose scenes it must hold.

    Returns:
        The objects of all scenes.

    Raises:
        CorruptFileError: If the file is truncated, damaged or of another kind.
        DatasetNotFoundError: If the file does not exist or may not be read.

    Example:
        >>> read_annotations(Path("CLEVR_train_scenes.json"), "train")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot read CLEVR_train_scenes.json: No such file or directory
    """
    try:
        return Annotations(**cached_arrays(path, "objects", split, lambda: _parse(path, split)._asdict()))
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot read {path}: {error.strerror}") from None


def _parse(path: Path, split: str) -> Annotations:
    try:
        return _annotations(path.read_bytes().decode(), split)
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path}: expected a JSON file, but it is none ({error})") from None
    except _WRONG as error:
        reason = " ".join(str(error).split())
        raise CorruptFileError(
            f"{path}: expected the scenes of CLEVR, whole, but they cannot be read ({reason})"
        ) from None


def _annotations(text: str, split: str) -> Annotations:
    numbers, counts, coords, pixels, codes = array("q"), array("q"), array("f"), array("f"), array("B")
    name = re.compile(rf"CLEVR_{split}_(\d{{6}})\.png")
    for scene in _scenes(text):
        match, objects = name.fullmatch(scene["image_filename"]), scene["objects"]
        if not match:
            raise ValueError(f"expected a scene of {split}, but got {scene['image_filename']!r}")
        if len(objects) > MAX_OBJECTS:
            raise ValueError(f"expected at most {MAX_OBJECTS} objects, but {match[0]} has {len(objects)}")
        numbers.append(int(match[1]))
        counts.append(len(objects))
        for described in objects:
            x, y, z = described["3d_coords"]
            coords.extend((x, y, z))
            pixels.extend(described["pixel_coords"][:2])
            codes.extend(attribute_codes(described))
    return Annotations(
        np.array(numbers, np.int64),
        np.cumsum([0, *counts]),
        np.array(coords, np.float32).reshape(-1, 3),
        np.array(pixels, np.float32).reshape(sum(counts), 2),
        np.array(codes, np.uint8).reshape(-1, len(ATTRIBUTES)),
    )


def _scenes(text: str) -> Iterator[Any]:
    """Parse one scene after the other: all at once would take many times the memory of the file."""
    start = re.search(r'"scenes"\s*:\s*\[\s*', text)
    if not start:
        raise ValueError("there is no list `scenes`")
    decoder, separator = json.JSONDecoder(), re.compile(r"[\s,]*")
    position = start.end()
    while text[position : position + 1] not in ("]", ""):
        scene, position = decoder.raw_decode(text, position)
        yield scene
        following = separator.match(text, position)
        assert following
        position = following.end()
    json.loads(f"{text[: start.end()]}{text[position:]}")  # the rest of the file must be whole, too
