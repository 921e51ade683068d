"""Read TFRecord files, compressed or not, without TensorFlow.

A file is a row of records, `length u64 | masked CRC32C of the length u32 | data | masked CRC32C of the data u32`, in
little-endian order, and the data of each is a `tf.train.Example` protobuf. DeepMind's multi_object_datasets store every
byte of an image as a string of its own (`0A 01 xx`), which numpy reads here by strides of three.

Reference:
    https://www.tensorflow.org/tutorials/load_data/tfrecord, https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import google_crc32c
import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from object_discovery.errors import CorruptFileError, DatasetNotFoundError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # fields of tf.train.Feature
_UNREADABLE = (EOFError, OSError, cast("type[Exception]", isal_zlib.error), OverflowError, MemoryError)
_ONE_BYTE = 0x010A  # `0A 01` as a little-endian u16: the start of a string of one byte
_LARGEST = (1 << 31) - 1  # bytes of a protobuf message
_PIECE = 1 << 24  # read at once: a length that is wrong must not take the memory


class Record(NamedTuple):
    """One record of a TFRecord file."""

    path: Path
    """The file."""
    offset: int
    """Byte of the decompressed stream at which the record starts."""
    data: bytes
    """The record's content, a serialised `tf.train.Example`."""
    checksum: int
    """Masked CRC32C of the content, as the file states it."""
    consumed: int
    """Bytes of the file on disk read so far, for a progress bar."""

    def check(self) -> None:
        """Compare the content with its checksum.

        Raises:
            CorruptFileError: If they differ.
        """
        if masked_crc32c(self.data) != self.checksum:
            raise _corrupt(self.path, self.offset, "the checksum of a record does not fit its data")

    def example(self) -> dict[str, NDArray[Any]]:
        """Parse the content with :func:`parse_example`.

        Raises:
            CorruptFileError: If the content is no `tf.train.Example`; the message names the file and the byte.
        """
        try:
            return parse_example(self.data)
        except CorruptFileError as error:
            raise _corrupt(self.path, self.offset, str(error)) from None


def masked_crc32c(data: bytes) -> int:
    """Compute the masked CRC32C that TFRecord files store.

    Args:
        data: Any bytes.

    Returns:
        The checksum, rotated right by 15 bits, plus 0xA282EAD8, modulo 2^32.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: str | os.PathLike[str], *, check: bool = True) -> Iterator[Record]:
    """Read the records of a TFRecord file one by one.

    Args:
        path: The file: plain, GZIP or ZLIB, which its first bytes tell.
        check: Compare each record's data with its checksum. False leaves that to :meth:`Record.check`.

    Yields:
        The records in the file's order.

    Raises:
        DatasetNotFoundError: If there is no such file, or it may not be read.
        CorruptFileError: If the file is damaged, truncated or of another kind; the message names the file and the byte.
    """
    path = Path(path)
    with _open(path) as file, _decompressed(file) as stream:
        offset = 0
        while header := _read(stream, 12, path, offset):
            if len(header) < 12:
                raise _corrupt(path, offset, "the file ends inside a record")
            length = _length(header)
            if length is None and offset == 0:
                raise _corrupt(path, 0, "not a TFRecord file (wrong checksum of the first length)")
            if length is None:
                raise _corrupt(path, offset, "the checksum of a record's length does not fit the length")
            if length > _LARGEST:
                raise _corrupt(path, offset, f"a record of {length} bytes is longer than a tf.train.Example can be")
            data, checksum = _read(stream, length, path, offset), _read(stream, 4, path, offset)
            if len(data) < length or len(checksum) < 4:
                raise _corrupt(path, offset, "the file ends inside a record")
            record = Record(path, offset, data, int.from_bytes(checksum, "little"), file.tell())
            if check:
                record.check()
            yield record
            offset += 16 + length


def parse_example(data: bytes) -> dict[str, NDArray[Any]]:
    """Parse a serialised `tf.train.Example`.

    Args:
        data: The bytes of the message.

    Returns:
        For each feature a flat array: uint8 for bytes (several strings are joined), float32 or int64. The arrays may be
        read-only views into `data`, with strides.

    Raises:
        CorruptFileError: If the bytes are no such message; the error names the byte.

    Example:
        >>> parse_example(bytes.fromhex("0a0d0a0b0a017812060a040a020708"))
        {'x': array([7, 8], dtype=uint8)}
    """
    features: dict[str, NDArray[Any]] = {}
    for _, first, last in _known(data, 0, len(data), (1,)):
        for _, start, stop in _known(data, first, last, (1,)):
            name, value = _entry(data, start, stop)
            if name in features:
                raise _wrong("a feature comes twice", start)
            features[name] = value
    return features


def _corrupt(path: Path, offset: int, reason: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: damaged at byte {offset} of its decompressed content: {reason}")


def _open(path: Path) -> BinaryIO:
    if path.is_dir():
        raise CorruptFileError(f"{path}: damaged at byte 0: expected a TFRecord file, but got a folder")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise DatasetNotFoundError(f"No such file: {path}") from None
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot read {path}: {error.strerror}") from None


def _decompressed(file: BinaryIO) -> BinaryIO:
    start = file.read(12)
    file.seek(0)
    if _length(start) is not None:
        return file
    if start[:2] == b"\x1f\x8b":
        return cast("BinaryIO", igzip.open(file, "rb"))  # type: ignore[no-untyped-call]
    if len(start) > 1 and start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0:
        return cast("BinaryIO", io.BufferedReader(_ZlibStream(file)))
    return file  # reading the first record raises the error


class _ZlibStream(io.RawIOBase):
    """The decompressed bytes of a ZLIB file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = isal_zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = b""
        while not piece and not self._inflate.eof:
            block = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            piece = self._inflate.decompress(block, len(buffer))
            if not block and not piece and not self._inflate.eof:
                raise EOFError("the ZLIB stream has no end")
        if not piece and (self._inflate.unused_data or self._file.read(1)):
            raise EOFError("bytes follow the end of the ZLIB stream")
        buffer[: len(piece)] = piece
        return len(piece)


def _read(stream: BinaryIO, size: int, path: Path, offset: int) -> bytes:
    try:
        if size <= _PIECE:
            return stream.read(size)
        data = bytearray()
        while piece := stream.read(min(_PIECE, size - len(data))):
            data += piece
        return bytes(data)
    except _UNREADABLE as error:
        raise _corrupt(path, offset, f"cannot read on ({' '.join(str(error).split()) or 'no memory'})") from None


def _length(header: bytes) -> int | None:
    """Return the length that the header of a record states, or None where its checksum differs."""
    if len(header) < 12:
        return None
    length, checksum = struct.unpack("<QI", header)
    return length if masked_crc32c(header[:8]) == checksum else None


def _wrong(reason: str, position: int) -> CorruptFileError:
    return CorruptFileError(f"expected a tf.train.Example, but {reason} at byte {position} of the record")


def _varint(data: bytes, position: int, end: int, longest: int = 10) -> tuple[int, int]:
    """Return the integer at `position` and the position behind it."""
    value = 0
    for shift, byte in enumerate(data[position : min(end, position + longest)]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80 and value < 1 << 64:
            return value, position + shift + 1
    raise _wrong("an integer has no end", position)


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, start and end of the value of each field of a message."""
    while position < end:
        tag, start = _varint(data, position, end, 5)
        wire = tag & 7
        if not 0 < tag >> 3 < 1 << 29:
            raise _wrong(f"a field has the impossible number {tag >> 3}", position)
        if wire == _BYTES:
            size, start = _varint(data, start, end, 5)
            stop = start + size
        elif wire == _VARINT:
            stop = _varint(data, start, end)[1]
        elif wire in (_FIXED32, _FIXED64):
            stop = start + (4 if wire == _FIXED32 else 8)
        else:
            raise _wrong(f"a field has the unknown wire type {wire}", position)
        if stop > end:
            raise _wrong("a field passes the end", position)
        yield tag >> 3, wire, start, stop
        position = stop


def _known(data: bytes, start: int, stop: int, numbers: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the strings and messages with these numbers; other fields are skipped."""
    for number, wire, first, last in _fields(data, start, stop):
        if number in numbers:
            if wire != _BYTES:
                raise _wrong("a list of values is missing", first)
            yield number, first, last


def _entry(data: bytes, start: int, stop: int) -> tuple[str, NDArray[Any]]:
    """Return name and values of a feature."""
    found = list(_known(data, start, stop, (1, 2)))
    spans = {number: (first, last) for number, first, last in found}
    if len(spans) < len(found):
        raise _wrong("a feature has two names or values", start)
    try:
        name = data[slice(*spans.get(1, (0, 0)))].decode()
    except UnicodeDecodeError:
        raise _wrong("the name of a feature is no text", start) from None
    return name, _feature(data, *spans[2]) if 2 in spans else np.empty(0, np.uint8)


def _feature(data: bytes, start: int, stop: int) -> NDArray[Any]:
    found = list(_known(data, start, stop, (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST)))
    if len(found) > 1:
        raise _wrong("a feature has two lists of values", start)
    for kind, first, last in found:
        if kind == _FLOAT_LIST:
            return _float_list(data, first, last)
        if kind == _INT64_LIST:
            return _int64_list(data, first, last)
        return _bytes_list(data, first, last)
    return np.empty(0, np.uint8)


def _bytes_list(data: bytes, start: int, stop: int) -> NDArray[np.uint8]:
    count, rest = divmod(stop - start, 3)
    if count and not rest and (np.ndarray((count,), "<u2", data, start, (3,)) == _ONE_BYTE).all():
        return np.frombuffer(data, np.uint8, stop - start, start)[2::3]
    strings = [
        np.frombuffer(data, np.uint8, last - first, first) for _, first, last in _known(data, start, stop, (1,))
    ] or [np.empty(0, np.uint8)]
    return strings[0] if len(strings) == 1 else np.concatenate(strings)


def _float_list(data: bytes, start: int, stop: int) -> NDArray[np.float32]:
    values = []
    for number, wire, first, last in _fields(data, start, stop):
        if number != 1:
            continue
        if wire not in (_BYTES, _FIXED32) or (last - first) % 4:
            raise _wrong("a list of floats has another type", first)
        values.append(np.frombuffer(data, "<f4", (last - first) // 4, first))
    return np.concatenate(values).astype(np.float32) if values else np.empty(0, np.float32)


def _int64_list(data: bytes, start: int, stop: int) -> NDArray[np.int64]:
    values: list[int] = []
    for number, wire, first, last in _fields(data, start, stop):
        if number != 1:
            continue
        if wire not in (_BYTES, _VARINT):
            raise _wrong("a list of integers has another type", first)
        while first < last:
            value, first = _varint(data, first, last)
            values.append(value - ((value >> 63) << 64))
    return np.array(values, np.int64)
