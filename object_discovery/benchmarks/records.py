"""Synthetic TFRecord files in the format and size of CLEVR with masks, for machines without the dataset."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.conversion.tfrecord import masked_crc32c
from object_discovery.data.datasets.scenes import render_scenes

HEIGHT, WIDTH, ENTITIES = 240, 320, 11
"""Size of an image of CLEVR with masks, and its number of masks."""
_BATCH_SIZE = 8


def generate_features(size: int, seed: int = 0) -> Iterator[dict[str, NDArray[Any]]]:
    """Generate scenes with those features of CLEVR with masks that the benchmark needs.

    Args:
        size: Number of scenes.
        seed: Seed of the scenes.

    Yields:
        `image` uint8 `(240, 320, 3)`, `mask` uint8 `(11, 240, 320, 1)`, 0 or 255, `visibility` float32 `(11,)` and
        `pixel_coords` float32 `(11, 3)`.

    Example:
        >>> next(generate_features(1))["mask"].shape
        (11, 240, 320, 1)
    """
    top = (WIDTH - HEIGHT) // 2
    for start in range(0, size, _BATCH_SIZE):
        scenes = render_scenes(np.arange(start, min(size, start + _BATCH_SIZE)), seed, resolution=WIDTH)
        for image, labels in zip(scenes.image.numpy(), scenes.mask.numpy(), strict=True):
            masks = entity_masks(labels[top : top + HEIGHT])
            yield {
                "image": image[top : top + HEIGHT],
                "mask": masks,
                "visibility": np.asarray(masks.any(axis=(1, 2, 3)), np.float32),
                "pixel_coords": np.zeros((ENTITIES, 3), np.float32),
            }


def entity_masks(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a label map into one mask for each entity.

    Args:
        labels: Labels `(H, W)`; 0 is the background, 255 is ignored.

    Returns:
        Masks `(11, H, W, 1)` of 0 or 255.

    Example:
        >>> entity_masks(np.array([[0, 1, 255]], np.uint8))[:2, :, :, 0].tolist()
        [[[255, 0, 0]], [[0, 255, 0]]]
    """
    return np.where(labels == np.arange(ENTITIES)[:, None, None], 255, 0).astype(np.uint8)[..., None]


def write_records(path: str | os.PathLike[str], size: int, seed: int = 0) -> None:
    """Write synthetic scenes in the published format of CLEVR with masks: gzip, one string for each byte.

    Args:
        path: The file to write.
        size: Number of scenes.
        seed: Seed of the scenes.
    """
    with gzip.open(path, "wb", compresslevel=6) as file:
        for features in generate_features(size, seed):
            entries = (_field(1, name.encode()) + _field(2, _feature(values)) for name, values in features.items())
            data = _field(1, b"".join(_field(1, entry) for entry in entries))
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(data + struct.pack("<I", masked_crc32c(data)))


def _varint(value: int) -> bytes:
    """Encode an integer as a protobuf varint: seven bits a byte, least significant first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _feature(values: NDArray[Any]) -> bytes:
    """Encode a `tf.train.Feature`: a list of one-byte strings, or a list of floats."""
    if values.dtype != np.uint8:
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    strings = np.empty((values.size, 3), np.uint8)
    strings[:] = 0x0A, 0x01, 0
    strings[:, 2] = values.ravel()
    return _field(1, strings.tobytes())
