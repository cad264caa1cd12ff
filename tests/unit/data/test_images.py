"""Reading pictures: every format against Pillow's own pixels, EXIF, depth, and files that are broken."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.images import (
    IntensityScaling,
    as_path,
    image_size,
    infer_scaling,
    read_image,
    to_rgb,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 21), np.uint8)
RGB = RNG.integers(0, 256, (13, 21, 3), np.uint8)
RGBA = RNG.integers(0, 256, (13, 21, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (13, 21)).astype(np.uint16)


def _save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_formats_return_the_pixels_that_were_saved(
    tmp_path: Path, ending: str, array: np.ndarray
) -> None:
    path = _save(tmp_path / f"a.{ending}", array, **({"lossless": True} if ending == "webp" else {}))
    read = read_image(path)
    assert read.dtype == np.uint8 and image_size(path) == (13, 21)
    np.testing.assert_array_equal(to_rgb(read), array if array.ndim == 3 else np.stack([array] * 3, -1))


def test_jpeg_equals_pillow(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.jpg", RGB)
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bit_grey_is_kept(tmp_path: Path, ending: str) -> None:
    read = read_image(_save(tmp_path / f"a.{ending}", DEEP))
    assert read.dtype == np.uint16 and read.shape == (13, 21, 1)
    np.testing.assert_array_equal(read[..., 0], DEEP)


def test_float_tiff_and_big_endian_tiff(tmp_path: Path) -> None:
    values = RNG.normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "f.tif", values))[..., 0], values)
    big = DEEP.astype(">u2")
    header = struct.pack(">2sHI", b"MM", 42, 8)
    tags = [(256, 3, 21), (257, 3, 13), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 9 * 12 + 4)]
    tags += [(277, 3, 1), (278, 3, 13), (279, 4, big.nbytes)]
    entries = b"".join(
        struct.pack(">HHIHH", t, k, 1, v, 0) if k == 3 else struct.pack(">HHII", t, k, 1, v)
        for t, k, v in tags
    )
    (tmp_path / "b.tif").write_bytes(header + struct.pack(">H", 9) + entries + bytes(4) + big.tobytes())
    read = read_image(tmp_path / "b.tif")
    assert read.dtype == np.uint16 and read.dtype.isnative
    np.testing.assert_array_equal(read[..., 0], DEEP)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I", "F"]
)
def test_every_pillow_mode_becomes_one_of_the_promised_arrays(mode: str) -> None:
    picture = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    read = read_image(picture)
    assert read.shape[:2] == (13, 21) and read.shape[2] in (1, 3, 4)
    assert read.dtype in (np.uint8, np.uint16, np.float32) and read.flags.c_contiguous
    assert to_rgb(read).shape == (13, 21, 3) and to_rgb(read).dtype == np.uint8


def test_palette_transparency_and_alpha_are_dropped(tmp_path: Path) -> None:
    np.testing.assert_array_equal(to_rgb(RGBA), RGBA[..., :3])
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png", transparency=3)
    np.testing.assert_array_equal(to_rgb(read_image(tmp_path / "p.png")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_as_pillow_applies_it(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / f"a.{ending}", RGB, exif=exif)
    with Image.open(path) as picture:
        picture.load()
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert expected.shape[0] == (21 if orientation >= 5 else 13)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    with Image.open(path) as picture:
        assert image_size(picture) == expected.shape[:2]
        np.testing.assert_array_equal(read_image(picture), expected)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "png")
    body, end = buffer.getvalue()[:-12], buffer.getvalue()[-12:]
    (tmp_path / "late.png").write_bytes(body + _chunk(b"eXIf", exif.tobytes()[6:]) + end)
    assert image_size(tmp_path / "late.png") == (21, 13) == read_image(tmp_path / "late.png").shape[:2]
    (tmp_path / "text.png").write_bytes(body + _chunk(b"tEXt", b"date\0today") + end)
    assert image_size(tmp_path / "text.png") == (13, 21)


def test_png_header_check_does_not_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "a.png", RGB)

    def decoded(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decoded)
    assert image_size(path) == (13, 21)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_truncated_files_are_refused_by_name_at_the_header_and_at_reading(
    tmp_path: Path, ending: str, share: float
) -> None:
    path = _save(tmp_path / f"broken_one.{ending}", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for read in (image_size, read_image):
        with pytest.raises(DataError, match="broken_one"):
            read(path)


def test_a_jpeg_with_trailing_bytes_is_fine(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.jpg", RGB)
    path.write_bytes(path.read_bytes() + b"maker's notes" * 20)
    assert image_size(path) == (13, 21)


def test_corrupt_png_pixels_are_named_when_read(tmp_path: Path) -> None:
    path = _save(tmp_path / "bad_pixels.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"bad_pixels\.png"):
        read_image(path)


def test_text_missing_files_and_odd_arrays_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    with pytest.raises(DataError, match=r"note\.png.*not a picture"):
        read_image(tmp_path / "note.png")
    with pytest.raises(DataError, match=r"gone\.png.*no such file"):
        read_image(tmp_path / "gone.png")
    for bad in (
        np.zeros((3, 8, 9)),
        np.zeros((20, 20, 17)),
        np.zeros(5),
        np.zeros((0, 4, 3)),
        np.zeros((2, 2), complex),
    ):
        with pytest.raises(DataError, match="array of shape"):
            read_image(bad)


def test_array_dtypes() -> None:
    for deep in (RGB.astype(np.int64), DEEP.astype(np.int32), RGB / 255.0):  # by the type, not the values
        assert read_image(deep).dtype == np.float32
    assert read_image(DEEP.astype(">u2")).dtype == np.uint16
    np.testing.assert_array_equal(to_rgb(read_image(RGB.astype(np.int64))), RGB)
    assert read_image(GREY > 9).max() == 255
    np.testing.assert_array_equal(to_rgb(read_image(RGB / 255.0)), RGB)  # floats in [0, 1]
    np.testing.assert_array_equal(to_rgb(RGB.astype(np.float32)), RGB)  # floats in 0..255
    assert (to_rgb(np.full((2, 2), np.nan, np.float32)) == 0).all()


def test_file_urls_and_home() -> None:
    assert as_path(Path("/data/a b.png").as_uri()) == str(Path("/data/a b.png"))
    assert as_path("plain.png") == "plain.png" and not as_path("~/x.png").startswith("~")


def test_scaling_is_none_for_eight_bits_and_robust_otherwise(tmp_path: Path) -> None:
    assert infer_scaling([RGB, _save(tmp_path / "g.png", GREY)]) is None
    deep = RNG.integers(1000, 3000, (200, 200)).astype(np.uint16)
    deep[0, 0] = 65535  # a hot pixel
    scaling = infer_scaling([_save(tmp_path / f"d{i}.png", deep) for i in range(3)])
    assert scaling is not None and 995 <= scaling.low <= 1010 and 2990 <= scaling.high <= 3005
    expected = np.rint(np.clip((deep - scaling.low) / (scaling.high - scaling.low) * 255, 0, 255))
    np.testing.assert_allclose(to_rgb(deep, scaling)[..., 1], expected, atol=1)
    flat = infer_scaling([np.full((4, 4), 7.0, np.float32)])
    assert flat is not None and flat.high > flat.low
    with pytest.raises(ConfigError, match="low < high"):
        IntensityScaling(3.0, 3.0)
