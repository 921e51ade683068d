"""Write small files as DeepMind's multi_object_datasets stand on disk."""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

Features = dict[str, NDArray[Any]]
DATA = Path(__file__).parents[3] / "shared" / "data" / "clevr_blender"


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def feature(values: NDArray[Any], packed: bool) -> bytes:
    if values.dtype == np.uint8:
        strings = [values.tobytes()] if packed else [bytes([value]) for value in values.ravel()]
        return field(1, b"".join(field(1, string) for string in strings))
    if values.dtype == np.float32:
        floats = [value.tobytes() for value in values.astype("<f4").ravel()]
        return field(2, field(1, b"".join(floats)) if packed else b"".join(varint(1 << 3 | 5) + one for one in floats))
    integers = [varint(int(value)) for value in values.ravel()]
    return field(3, field(1, b"".join(integers)) if packed else b"".join(varint(1 << 3) + one for one in integers))


def example(features: Features, packed: bool = False) -> bytes:
    """Serialise a `tf.train.Example`; not packed is the published form, every byte a string of its own."""
    entries = (field(1, name.encode()) + field(2, feature(values, packed)) for name, values in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def mask_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32))


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + mask_crc(length) + data + mask_crc(data)


def write(path: Path, examples: Iterable[bytes], compression: str = "gzip") -> Path:
    content = b"".join(frame(data) for data in examples)
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, 1),
        "zlib": zlib.compress,
        "plain": bytes,
    }
    path.write_bytes(compressors[compression](content))
    return path


@functools.cache
def example_class() -> type[Any]:
    """Build the official `tf.train.Example` with Google's protobuf, as an oracle."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, bool, str]) -> Any:
        made = file.message_type.add(name=name)
        for label, number, kind, repeated, of in fields:
            made.field.add(
                name=label, number=number, type=kind, label=3 if repeated else 1, type_name=f".t.{of}" if of else None
            )
        return made

    message("BytesList", ("value", 1, kinds.TYPE_BYTES, True, ""))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, True, ""))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, True, ""))
    lists = (("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List"))
    message("Feature", *((name, number, kinds.TYPE_MESSAGE, False, of) for name, number, of in lists))
    features = message("Features", ("feature", 1, kinds.TYPE_MESSAGE, True, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=kinds.TYPE_MESSAGE, label=1, type_name=".t.Feature")
    message("Example", ("features", 1, kinds.TYPE_MESSAGE, False, "Features"))
    pool: Any = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    made: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))
    return made


def draw(dataset: str, seed: int, entities: int | None = None, variant: str | None = None) -> Features:
    """Make a random scene with the published features of a dataset; its masks do not overlap."""
    rng = np.random.default_rng(seed)
    sprites = {"binarized": (1, 4), "colored_on_grayscale": (3, 6), "colored_on_colored": (3, 5)}
    height, width, channels, default = {
        "tetrominoes": (35, 35, 3, 4),
        "multi_dsprites": (64, 64, *sprites[variant or "colored_on_colored"]),
        "objects_room": (64, 64, 3, 7),
        "clevr_with_masks": (240, 320, 3, 11),
    }[dataset]
    entities = entities or default
    owner = np.zeros((height, width), int)
    for entity in range(1, entities):
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        owner[top : top + rng.integers(2, 9), left : left + rng.integers(2, 9)] = entity
    masks = np.where(owner == np.arange(entities)[:, None, None], 255, 0).astype(np.uint8)[..., None]
    scene: Features = {
        "image": rng.integers(0, 256, (height, width, channels), np.uint8),
        "mask": np.moveaxis(masks, 0, 2) if dataset == "multi_dsprites" else masks,
    }
    if dataset != "objects_room":
        scene |= {name: np.asarray(rng.random(entities, np.float32)) for name in ("x", "y")}
        scene["visibility"] = np.asarray(masks.any(axis=(1, 2, 3)), np.float32)
    if dataset == "clevr_with_masks":
        scene["pixel_coords"] = np.asarray(rng.random((entities, 3), np.float32))
        scene["size"] = rng.integers(0, 3, entities, np.uint8)
    return scene


def reference_labels(scene: Features, dataset: str) -> NDArray[np.uint8]:
    """Compute the label map pixel by pixel, the slow and plain way."""
    masks = scene["mask"][..., 0]
    masks = np.moveaxis(masks, 2, 0) if dataset == "multi_dsprites" else masks
    background = 4 if dataset == "objects_room" else 1
    labels = np.empty(masks.shape[1:], np.uint8)
    for row, column in np.ndindex(labels.shape):
        covering = [entity for entity in range(len(masks)) if masks[entity, row, column]]
        labels[row, column] = max(0, covering[0] + 1 - background) if covering else 255
    return labels
