"""Fuzz test: damaged TFRecord files are converted correctly or refused with one line."""

import gzip
import re
import resource
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.errors import CorruptFileError, UserError
from tests.data.tfrecord_writer import (
    example,
    example_class,
    field,
    frame,
    mask_crc,
    random_scene,
    reference_labels,
    varint,
)

COUNT = 300
SECONDS, BYTES = 20.0, 1 << 31  # limits for each file; of the memory, on top of what is in use
NAMES = (b"image", b"mask", b"x", b"y", b"visibility")
LENGTHS = (0, 1, 255, 1 << 16, 1 << 28, (1 << 31) - 1, 1 << 31, 1 << 33, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAME = re.compile(r"[A-Za-z0-9_]{1,100}")  # of a feature that can become an array of an HDF5 file
EXAMPLE: Any = example_class()
UNDETECTABLE = ("length", "truncate", "order")  # damage after which the file may be valid
Random = np.random.Generator
SceneDict = dict[str, Any]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "zlib": lambda data: zlib.compress(data, 1),
    "plain": bytes,
}


def flip(data: bytes, rng: Random, first: int = 0, last: int | None = None) -> bytes:
    """Flip one to three bits of a part of the data."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        damaged[rng.integers(first, last or len(data))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def splice(data: bytes, rng: Random) -> bytes:
    """Replace up to 20 bytes by up to 20 others."""
    start = int(rng.integers(len(data)))
    return data[:start] + rng.bytes(int(rng.integers(20))) + data[start + int(rng.integers(20)) :]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.integers(len(data))] if rng.random() < 0.7 else data[: -int(rng.integers(1, 30))]


def damage_structure(data: bytes, rng: Random) -> bytes:
    """Damage tags, lengths and names of a `tf.train.Example`, next to the name of a feature."""
    position = data.find(NAMES[rng.integers(len(NAMES))]) + int(rng.integers(-9, 20))
    position = min(max(position, 0), len(data) - 1)
    new = (
        bytes([rng.integers(256)]),
        bytes([data[position] & 0xF8 | int(rng.integers(8))]),  # another wire type
        b"\xff" * int(rng.integers(1, 14)) + b"\x01",  # an integer that is too long
        varint(int(rng.choice(LENGTHS[:-3]))),
        b"",
    )[rng.integers(5)]
    return data[:position] + new + data[position + 1 :]


def rewrite(data: bytes, rng: Random) -> bytes:
    """Add valid fields with unusual names and values."""
    name = NAMES[rng.integers(len(NAMES))]
    unusual = (b"", b".", b"..", b"a/b", b"/", b"\0", b"x\0", b"\xff\xfe", b"x y", "é".encode(), b"image", b"n" * 70000)
    floats, byte_values = field(2, field(1, bytes(4 * int(rng.integers(3))))), field(1, field(1, rng.bytes(3)))
    added = (
        field(1, field(1, field(1, unusual[rng.integers(len(unusual))]) + field(2, floats))),
        field(1, field(1, field(1, name) + field(2, byte_values))),
        field(1, field(2, field(1, name) + field(2, byte_values))),
        field(1, field(1, field(1, name))),
        field(1, varint(8) + varint(int(rng.integers(1 << 40)))),
        field(1, field(1, field(1, name) + varint(2 << 3 | 5) + rng.bytes(4))),
        varint(int(rng.integers(16)) << 3 | int(rng.integers(8))) + rng.bytes(8),
        field(2, b"?"),
    )[rng.integers(8)]
    return added + data if rng.random() < 0.5 else data + added


def relabel(data: bytes, rng: Random) -> bytes:
    """Write another length, with a matching checksum in three of four cases."""
    near = len(data) + int(rng.integers(-20, 20))
    length = struct.pack("<Q", near if rng.random() < 0.3 else int(rng.choice(np.array(LENGTHS, np.uint64))))
    return length + (mask_crc(length) if rng.random() < 0.75 else rng.bytes(4)) + data + mask_crc(data)


def mutate_record(data: bytes, rng: Random) -> bytes:
    """Damage a record, with matching checksums."""
    change = (flip, splice, truncate, damage_structure, rewrite)[rng.choice(5, p=(0.2, 0.1, 0.1, 0.3, 0.3))]
    return frame(change(data, rng))


def reorder(frames: list[bytes], rng: Random) -> list[bytes]:
    """Swap, repeat or drop records."""
    chosen = rng.integers(len(frames), size=int(rng.integers(1, 5)))
    return [frames[index] for index in chosen]


def damage(examples: list[bytes], rng: Random) -> tuple[str, bytes, str]:
    """Damage a file of these records; return the kind of damage, the file and its compression."""
    frames, chosen = [frame(data) for data in examples], int(rng.integers(len(examples)))
    kinds = (
        "file flip",
        "file truncate",
        "file splice",
        "flip",
        "truncate",
        "splice",
        "length",
        "order",
        "record",
        "record",
    )
    kind = kinds[rng.integers(len(kinds))]
    compression = ("gzip", "gzip", "zlib", "plain")[rng.integers(4)]
    if kind == "length":
        frames[chosen] = relabel(examples[chosen], rng)
    if kind == "record":
        frames[chosen] = mutate_record(examples[chosen], rng)
    if kind == "order":
        frames = reorder(frames, rng)
    content, change = b"".join(frames), {"flip": flip, "truncate": truncate, "splice": splice}.get(kind.split()[-1])
    if change and not kind.startswith("file"):
        content = change(content, rng)
    file = COMPRESS[compression](content)
    if kind == "file flip" and rng.random() < 0.4:  # the header or the trailer
        return kind, flip(file, rng, *((0, 12) if rng.random() < 0.5 else (len(file) - 8, len(file)))), compression
    return kind, change(file, rng) if change and kind.startswith("file") else file, compression


def read_scene(data: bytes) -> SceneDict:
    """Parse a record by protobuf."""
    features = {}
    for name, value in EXAMPLE.FromString(data).features.feature.items():
        kinds = [kind for kind in ("bytes_list", "float_list", "int64_list") if value.HasField(kind)]
        if len(kinds) > 1:
            raise DecodeError("two lists")
        kind = kinds[0] if kinds else "bytes_list"
        values = getattr(value, kind).value
        if kind == "bytes_list":
            features[name] = np.frombuffer(b"".join(values), np.uint8)
        else:
            features[name] = np.array(values, np.float32 if kind == "float_list" else np.int64)
    return features


def read_scenes(file: bytes, compression: str) -> list[SceneDict] | None:
    """Read a file by the standard library and protobuf; None if it is damaged."""
    unpack: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zlib": zlib.decompress, "plain": bytes}
    scenes = []
    try:
        content = unpack[compression](file)
        while content:
            length = int.from_bytes(content[:8], "little")
            data, crc = content[12 : 12 + length], content[12 + length : 16 + length]
            if content[8:12] != mask_crc(content[:8]) or crc != mask_crc(data):
                return None
            scenes.append(read_scene(data))
            content = content[16 + length :]
    except (EOFError, OSError, zlib.error, DecodeError):
        return None
    sizes = [{name: (values.size, values.dtype) for name, values in scene.items()} for scene in scenes]
    is_valid = sizes and all(other == sizes[0] for other in sizes) and all(NAME.fullmatch(name) for name in sizes[0])
    pixels = {"image": (35 * 35 * 3, np.dtype(np.uint8)), "mask": (35 * 35 * 4, np.dtype(np.uint8))}
    return scenes if is_valid and pixels.items() <= sizes[0].items() and "visibility" in sizes[0] else None


def compare(target: Path, scenes: list[SceneDict], case: str) -> None:
    """Check that the converted file has exactly these scenes."""
    file = SceneFile(target)
    assert len(file) == len(scenes), f"{case}: accepted, but it is damaged"
    for index, scene in enumerate(scenes):
        assert file.image(index).tobytes() == scene["image"].tobytes(), f"{case}: a wrong image"
        masks = {"mask": scene["mask"].reshape(4, 35, 35, 1)}
        np.testing.assert_array_equal(file.mask(index), reference_labels(masks, "tetrominoes"))
        factors = file.factors(index)
        assert factors.keys() == scene.keys() - {"image", "mask"}
        for name, values in factors.items():
            assert values.dtype == scene[name].dtype
            np.testing.assert_array_equal(values.ravel(), scene[name])


def attempt(source: Path, target: Path, workers: int) -> UserError | None:
    """Convert a file; return the error, if any."""
    try:
        convert_tfrecord(source, target, progress=False, workers=workers)
    except UserError as error:
        return error
    return None


def mutate(count: int, folder: Path, first: int = 0) -> Counter[tuple[str, str]]:
    """Convert damaged files and check each outcome.

    Args:
        count: Number of files.
        folder: An empty folder to work in.
        first: Number of the first file; the number is the seed of the damage.

    Returns:
        Counts of (kind of damage, outcome).
    """
    source, target, outcomes = folder / "a.tfrecords", folder / "a.h5", Counter[tuple[str, str]]()
    bases = [
        [example(random_scene("tetrominoes", 3 * packed + n), bool(packed)) for n in range(3)] for packed in range(2)
    ]
    originals = [read_scenes(b"".join(map(frame, base)), "plain") for base in bases]
    for number in range(first, first + count):
        kind, file, compression = damage(bases[number % 2], np.random.default_rng(number))
        scenes, case = read_scenes(file, compression), f"{number} ({kind})"
        source.write_bytes(file)
        start = time.perf_counter()
        error = attempt(source, target, 1 + number % 2)
        assert time.perf_counter() - start < SECONDS, f"{case}: took too long"
        if error is None:
            compare(target, scenes or originals[number % 2] or [], case)
            target.unlink()
        else:
            assert scenes is None or kind not in UNDETECTABLE, f"{case}: refused, but nothing is wrong: {error}"
            assert isinstance(error, CorruptFileError), f"{case}: {error}"
            assert str(error).startswith(f"{source}: "), f"{case}: {error}"
            assert str(error).isprintable(), f"{case}: {str(error)!r}"
            assert "memory" not in str(error), f"{case}: {error}"
        outcomes[kind, "refused" if error else "converted"] += 1
        assert [path.name for path in folder.iterdir()] == ["a.tfrecords"], f"{case}: something is left"
    return outcomes


def test_damaged_files_are_converted_correctly_or_refused(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + BYTES, limits[1]))
    try:
        outcomes = mutate(COUNT, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert sum(outcomes.values()) == COUNT
    refused = sum(number for (_, outcome), number in outcomes.items() if outcome == "refused")
    assert COUNT // 2 < refused < COUNT
