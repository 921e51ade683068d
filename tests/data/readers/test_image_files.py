"""Images are read as RGB, label maps as stored, and damaged files raise one line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from object_discovery.data.readers.image_files import read_image, read_image_size, read_label_map
from object_discovery.errors import CorruptFileError, DatasetNotFoundError

RED = [200, 10, 20]


def noise(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def png(path: Path, pixels: NDArray[Any], colour_type: int, depth: int) -> Path:
    """Write a PNG of a colour type and bit depth that PIL cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    if depth < 8:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[:, :, 8 - depth :].reshape(height, -1)
        lines = [b"\0" + np.packbits(row).tobytes() for row in bits]
    else:
        lines = [b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in rows]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_rgb_images_are_read_exactly(tmp_path: Path, ending: str) -> None:
    pixels = noise(6, 9, 3)
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **options)
    read = read_image(tmp_path / f"a.{ending}")
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert read.flags.writeable
    assert read_image_size(tmp_path / f"a.{ending}") == (6, 9)
    np.testing.assert_array_equal(read, pixels)


def test_jpeg_images_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (12, 7), tuple(RED)).save(tmp_path / "a.jpg", quality=95)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (7, 12, 3)
    assert np.abs(read.astype(int) - RED).max() <= 3


def test_cmyk_is_converted_to_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]


def test_transparent_pixels_are_composited_on_white_or_alpha_is_dropped(tmp_path: Path) -> None:
    pixels = noise(5, 4, 4)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), expected, atol=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", alpha="drop"), pixels[..., :3])
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), pixels[..., :3])


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (3, 2), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_floating_point_grey_is_clipped_to_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5, 1, 7, -1, np.nan]], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 2].tolist() == [0, 128, 255, 255, 0, 0]


def test_grey_is_repeated(tmp_path: Path) -> None:
    pixels = noise(5, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.merge("LA", [Image.fromarray(pixels), Image.new("L", (4, 5), 255)]).save(tmp_path / "alpha.png")
    Image.fromarray(pixels > 127).save(tmp_path / "bits.png")
    expected = np.stack([pixels] * 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), 255 * (expected > 127))


@pytest.mark.parametrize("transparency", [None, 1])
def test_palette_images_are_converted_and_composited(tmp_path: Path, transparency: int | None) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L")
    image.putpalette([1, 2, 3, *RED])
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    assert read_image(tmp_path / "a.png").tolist() == [[[1, 2, 3], RED if transparency is None else [255] * 3]]


def test_16_bit_images_are_scaled_to_8_bits(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 300, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "a.tif")
    colours = png(tmp_path / "colours.png", 257 * noise(3, 4, 3).astype(np.uint16), colour_type=2, depth=16)
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 1, 255]
    assert read_image(tmp_path / "a.tif")[0, :, 1].tolist() == [0, 1, 1, 255]
    np.testing.assert_array_equal(read_image(colours), noise(3, 4, 3))


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int, quarter_turns: int) -> None:
    pixels, exif = noise(3, 5, 3), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, quarter_turns))
    assert read_image_size(tmp_path / "a.png") == read_image(tmp_path / "a.png").shape[:2]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", exif=False), pixels)
    assert read_image_size(tmp_path / "a.png", exif=False) == (3, 5)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_ignored(tmp_path: Path) -> None:
    pixels = noise(3, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    assert read_image_size(tmp_path / "a.png") == (3, 5)


def test_label_maps_are_palette_indices_or_grey_values(tmp_path: Path) -> None:
    labels = noise(4, 5)
    labels[0, :2] = 0, 255
    palette = Image.fromarray(labels)
    palette.putpalette(noise(768).tolist())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(labels).save(tmp_path / "grey.png")
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(labels > 9).save(tmp_path / "bits.png")
    for name in ("palette", "grey", "wide"):
        read = read_label_map(tmp_path / f"{name}.png")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, labels)
    np.testing.assert_array_equal(read_label_map(tmp_path / "bits.png"), labels > 9)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_label_maps_of_1_2_and_4_bits_are_not_scaled(tmp_path: Path, depth: int) -> None:
    labels = np.arange(16, dtype=np.uint8).reshape(2, 8) % (1 << depth)
    np.testing.assert_array_equal(read_label_map(png(tmp_path / "a.png", labels, 0, depth)), labels)


def test_rgb_lossy_and_large_label_maps_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    Image.new("L", (4, 4)).save(tmp_path / "lossy.jpg")
    Image.fromarray(np.array([[0, 256]], np.uint16)).save(tmp_path / "many.png")
    with pytest.raises(
        CorruptFileError, match=r"colours\.png: expected labels of 0 to 255 in one channel .* but got RGB"
    ):
        read_label_map(tmp_path / "colours.png")
    with pytest.raises(
        CorruptFileError, match=r"lossy\.jpg: expected a label map of a lossless format, but got a JPEG"
    ):
        read_label_map(tmp_path / "lossy.jpg")
    with pytest.raises(
        CorruptFileError,
        match=r"many\.png: expected labels of 0 to 255 .* but got 0 to 256: `object-discovery convert labels FOLDER`",
    ):
        read_label_map(tmp_path / "many.png")


def test_large_ids_and_colours_are_relabelled_with_relabel(tmp_path: Path) -> None:
    ids = np.array([[0, 26001, 26002], [24000, 65535, 0]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    assert read_label_map(tmp_path / "ids.png", relabel=True).tolist() == [[0, 2, 3], [1, 255, 0]]
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[0, 1], colours[1, 0] = [1, 2, 3], [1, 2, 4]
    Image.fromarray(colours).save(tmp_path / "colours.png")
    assert read_label_map(tmp_path / "colours.png", relabel=True).tolist() == [[0, 1], [2, 0]]
    alpha = np.full((2, 2, 1), 255, np.uint8)
    alpha[0, 1] = 0
    Image.fromarray(np.concatenate([colours, alpha], 2)).save(tmp_path / "alpha.png")
    assert read_label_map(tmp_path / "alpha.png", relabel=True).tolist() == [[0, 0], [1, 0]]
    small = np.array([[0, 7, 255]], np.uint16)
    Image.fromarray(small).save(tmp_path / "small.png")
    assert read_label_map(tmp_path / "small.png", relabel=True).tolist() == small.tolist()
    Image.fromarray(np.arange(300, dtype=np.uint16)[None]).save(tmp_path / "many.png")
    with pytest.raises(CorruptFileError, match=r"many\.png: expected at most 254 objects in an image, but got 299"):
        read_label_map(tmp_path / "many.png", relabel=True)


def test_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1, 70_000]], np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(CorruptFileError, match=r"b\.tif: expected values of 0 to 65535, but got -1 to 70000"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("size", [0, 4, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, ending: str, size: float) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise(64, 64)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(size if size >= 1 else size * len(content))])
    for read in (read_image, read_label_map):
        with pytest.raises(CorruptFileError) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_flipped_bits_raise_an_error_or_give_an_image(tmp_path: Path) -> None:
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "a.png")
    content, generator = (tmp_path / "a.png").read_bytes(), np.random.default_rng(1)
    failures = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
        (tmp_path / "b.png").write_bytes(damaged)
        try:
            assert read_image(tmp_path / "b.png").dtype == np.uint8
        except CorruptFileError:
            failures += 1
    assert failures > 50


def test_other_files_folders_missing_and_unreadable_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_text("no image")
    for read in (read_image, read_label_map, read_image_size):
        with pytest.raises(CorruptFileError, match=r"a\.png: expected a whole image, but it cannot be read"):
            read(tmp_path / "a.png")
        with pytest.raises(CorruptFileError, match="expected an image, but got a folder"):
            read(tmp_path)
        with pytest.raises(DatasetNotFoundError, match=r"No such file: .*b\.png"):
            read(tmp_path / "b.png")

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(DatasetNotFoundError, match=r"Cannot read .*a\.png: permission denied"):
        read_image(tmp_path / "a.png")
