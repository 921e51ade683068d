import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from object_discovery.data.conversion import tfrecord
from object_discovery.data.conversion.tfrecord import masked_crc32c, parse_example, read_records
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from tests.data.tfrecord_writer import DATA, draw, example, example_class, field, frame, varint, write

EXAMPLES = [b"", b"abc", bytes(range(256)) * 9]


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def one_line(error: pytest.ExceptionInfo[CorruptFileError], path: Path) -> str:
    message = str(error.value)
    assert message.startswith(f"{path}: damaged at byte ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("data", EXAMPLES)
def test_masked_crc32c_is_the_polynomials(data: bytes) -> None:
    crc = slow_crc32c(data)
    assert masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("compression", ["gzip", "zlib", "plain"])
def test_records_and_offsets(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / "a", [*EXAMPLES, bytes(200_000)], compression)
    records = list(read_records(str(path)))
    assert [record.data for record in records] == [*EXAMPLES, bytes(200_000)]
    assert [record.offset for record in records] == [0, 16, 35, 35 + 16 + 2304]
    assert records[-1].consumed == path.stat().st_size


@pytest.mark.parametrize("compression", ["gzip", "zlib", "plain"])
def test_long_records_are_read_in_pieces(tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_PIECE", 1000)
    examples = [bytes(range(256)) * 9, b"abc", b"\x07" * 3000]
    assert [record.data for record in read_records(write(tmp_path / "a", examples, compression))] == examples


def test_reads_lazily(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(frame(b"good") + bytes(12))
    records = read_records(path)
    assert next(records).data == b"good"
    with pytest.raises(CorruptFileError, match="at byte 20 "):
        next(records)


def test_gzip_of_several_members(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(frame(b"one")) + gzip.compress(frame(b"two")))
    assert [record.data for record in read_records(path)] == [b"one", b"two"]


@pytest.mark.parametrize("packed", [False, True])
def test_example_as_google_parses_it(packed: bool) -> None:
    features = draw("tetrominoes", 0) | {
        "count": np.array([0, 1, -1, 300, 2**62, -(2**63)], np.int64),
        "one": np.array([7], np.uint8),
        "tricky": np.array([10, 1, 5, 10, 1, 6], np.uint8),
    }
    data = example(features, packed)
    message = example_class().FromString(data)  # its parts do not outlive it
    official = message.features.feature
    parsed = parse_example(data)
    assert parsed.keys() == official.keys() == features.keys()
    for name, values in features.items():
        kind = {np.uint8: "bytes_list", np.float32: "float_list", np.int64: "int64_list"}[values.dtype.type]
        theirs = getattr(official[name], kind).value
        if kind == "bytes_list":
            assert parsed[name].tobytes() == b"".join(theirs)
        np.testing.assert_array_equal(parsed[name], values.ravel())
        assert parsed[name].dtype == values.dtype


def test_example_written_by_google() -> None:
    message = example_class()()
    message.features.feature["f"].float_list.value.extend([0.5, -2.0])
    message.features.feature["i"].int64_list.value.extend([3, -4])
    message.features.feature["b"].bytes_list.value.extend([b"ab", b"", b"c"])
    message.features.feature["empty"].bytes_list.SetInParent()
    message.features.feature["none"].SetInParent()
    parsed = parse_example(message.SerializeToString())
    assert {name: values.tolist() for name, values in parsed.items()} == {
        "f": [0.5, -2.0], "i": [3, -4], "b": [97, 98, 99], "empty": [], "none": []
    }  # fmt: skip


def test_unknown_fields_are_skipped() -> None:
    entry = field(1, b"x") + field(2, field(9, b"?") + field(2, field(1, b"\0\0\0\x3f"))) + field(7, b"?")
    fixed = varint(5 << 3 | 1) + bytes(8) + varint(6 << 3 | 5) + bytes(4) + varint(7 << 3) + b"\x01"
    parsed = parse_example(fixed + field(1, field(1, entry)) + field(3, b"?"))
    assert parsed["x"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x05ab", "a field passes the end at byte 0"),
        (b"\x0f", "unknown wire type 7 at byte 0"),
        (b"\x08" + b"\xff" * 12, "an integer has no end at byte 1"),
        (b"\x0a", "an integer has no end at byte 1"),
        (field(1, field(1, field(2, varint(1 << 3) + b"\x01"))), "a list of values is missing"),
        (field(1, field(1, field(2, field(2, field(1, b"abc"))))), "a list of floats has another type"),
        (field(1, field(1, field(2, field(3, varint(1 << 3 | 5) + b"abcd")))), "a list of integers has another type"),
        (field(1, field(1, field(2, field(3, varint(1 << 3) + b"\xff" * 9 + b"\x7f")))), "an integer has no end"),
        (b"\x02\x00", "a field has the impossible number 0 at byte 0"),
        (field(1, field(1, field(1, b"x")) * 2), "a feature comes twice"),
        (field(1, field(1, field(1, b"x") + field(1, b"y"))), "a feature has two names or values"),
        (field(1, field(1, field(1, b"\xff"))), "the name of a feature is no text"),
        (field(1, field(1, field(2, field(1, b"") + field(2, b"")))), "a feature has two lists of values"),
    ],
)
def test_no_example(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(CorruptFileError, match=f"expected a tf.train.Example, but .*{reason}"):
        parse_example(data)
    path = write(tmp_path / "a", [b"", data])
    record = list(read_records(path))[1]
    with pytest.raises(CorruptFileError, match=reason) as error:
        record.example()
    assert "at byte 16 " in one_line(error, path)


CONTENT = b"".join(frame(data) for data in EXAMPLES)
STARTS = [0, 16, 35]


@pytest.mark.parametrize("position", [*range(60), 1000, len(CONTENT) - 5, len(CONTENT) - 1])
def test_every_flipped_bit_is_found(tmp_path: Path, position: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= 1 << position % 8
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(damaged))
    with pytest.raises(CorruptFileError) as error:
        list(read_records(path))
    start = max(start for start in STARTS if start <= position)
    assert f"at byte {start} " in one_line(error, path)


@pytest.mark.parametrize("compression", ["gzip", "zlib", "plain"])
@pytest.mark.parametrize("part", [0.001, 0.3, 0.7, 0.999])
def test_truncated(tmp_path: Path, compression: str, part: float) -> None:
    noise = [np.random.default_rng(seed).bytes(5000) for seed in range(4)]
    whole = write(tmp_path / "a", noise, compression).read_bytes()
    path = tmp_path / "a"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CorruptFileError) as error:
        list(read_records(path))
    one_line(error, path)


@pytest.mark.parametrize("cut", [1, 4, 7, 8])
def test_gzip_without_its_trailer(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "a", EXAMPLES)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptFileError, match="cannot read on") as error:
        list(read_records(path))
    one_line(error, path)


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_flipped_bit_in_the_compressed_stream(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / "a", [np.random.default_rng(0).bytes(5000)], compression)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError) as error:
        list(read_records(path))
    one_line(error, path)


def test_bytes_behind_the_end(tmp_path: Path) -> None:
    for compress in (gzip.compress, zlib.compress):
        path = tmp_path / "a"
        path.write_bytes(compress(CONTENT) + b"more")
        with pytest.raises(CorruptFileError, match="cannot read on") as error:
            list(read_records(path))
        one_line(error, path)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (2**63 + 5, "a record of 9223372036854775813 bytes is longer than"),
        (2**31, "is longer than"),
        (2**31 - 1, "ends"),
    ],
)
def test_absurd_length(tmp_path: Path, number: int, reason: str) -> None:
    length = struct.pack("<Q", number)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(length + struct.pack("<I", masked_crc32c(length)) + bytes(100)))
    with pytest.raises(CorruptFileError, match=reason) as error:
        list(read_records(path))
    one_line(error, path)


@pytest.mark.parametrize(
    "content", [b"hello, this is no TFRecord file", bytes(100), b"\x89HDF\r\n\x1a\n" * 9, b"\x1f\x8b"]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_foreign_files(tmp_path: Path, content: bytes, compressed: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(CorruptFileError) as error:
        list(read_records(path))
    assert "at byte 0 " in one_line(error, path)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert list(read_records(tmp_path / "a")) == []


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"No such file: .*b"):
        next(read_records(tmp_path / "b"))
    with pytest.raises(CorruptFileError, match="got a folder"):
        next(read_records(tmp_path))


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*: Permission denied"):
        next(read_records(tmp_path / "b"))


def test_checksums_may_be_left_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    records = list(read_records(path, check=False))
    records[0].check()
    with pytest.raises(CorruptFileError, match="at byte 35 "):
        records[2].check()


@pytest.mark.skipif(not DATA.is_dir(), reason="the rendered CLEVR scenes are not beside the checkout (../shared/data)")
def test_real_file_as_google_parses_it() -> None:
    records = read_records(DATA / "test.tfrecords")
    for _ in range(2):
        record = next(records)
        message = example_class().FromString(record.data)
        official = message.features.feature
        parsed = record.example()
        assert parsed.keys() == official.keys()
        for name, values in parsed.items():
            theirs = official[name]
            if values.dtype == np.uint8:
                assert values.tobytes() == b"".join(theirs.bytes_list.value)
            else:
                np.testing.assert_array_equal(values, np.array(theirs.float_list.value, np.float32))
