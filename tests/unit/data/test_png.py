"""PNGs whose data lacks rows are refused, all others are read, interlaced ones too."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.images import read_image
from semseg_automl.data.masks import read_raw_mask

MODES = {"1": 1, "L": 8, "P": 8, "LA": 16, "RGB": 24, "RGBA": 32, "I;16": 16}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claim(path: Path, height: int) -> Path:
    """Change the height in a PNG's header, with a right checksum."""
    data = path.read_bytes()
    header = data[16:20] + struct.pack(">I", height) + data[24:29]
    path.write_bytes(data[:8] + chunk(b"IHDR", header) + data[33:])
    return path


def interlaced(path: Path, mask: np.ndarray, passes: int = 7) -> Path:
    """An interlaced grey PNG, or the first ``passes`` of its seven passes."""
    rows = b""
    for top, left, down, across in ADAM7[:passes]:
        part = mask[top::down, left::across]
        rows += b"".join(b"\0" + row.tobytes() for row in part if part.shape[1])
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], 8, 0, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def picture(mode: str, height: int = 20, width: int = 13) -> Image.Image:
    """Random pixels with a last row of zeros, so that the rows are counted."""
    depth = np.uint16 if mode == "I;16" else np.uint8
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, bands) if bands > 1 else (height, width)
    pixels = np.random.default_rng(0).integers(1, np.iinfo(depth).max, shape).astype(depth)
    pixels[-1] = 0
    if mode == "1":
        return Image.fromarray((pixels > 128).astype(np.uint8) * np.uint8(255)).convert("1")
    if mode == "P":
        out = Image.fromarray(pixels)
        out.putpalette(list(range(256)) * 3)
        return out
    return Image.fromarray(pixels)


@pytest.mark.parametrize("read", [read_image, read_raw_mask])
@pytest.mark.parametrize("mode", MODES)
def test_missing_rows_are_refused_and_a_black_last_row_is_not(
    mode: str, read: object, tmp_path: Path
) -> None:
    path = tmp_path / "x.png"
    picture(mode).save(path)
    assert read(path).shape[:2] == (20, 13)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"x\.png: is damaged: its data ends after 20 of its 21 rows; save"):
        read(claim(path, 21))  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (20, 13), (8, 16), (64, 33)])
def test_interlaced_masks(shape: tuple[int, int], tmp_path: Path) -> None:
    mask = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(read_raw_mask(interlaced(tmp_path / "x.png", mask)), mask)
    if min(shape) > 1:
        with pytest.raises(DataError, match=r"x\.png: is damaged: its data ends after"):
            read_raw_mask(interlaced(tmp_path / "x.png", mask, passes=6))


def test_pixels_in_many_chunks(tmp_path: Path) -> None:
    mask = np.random.default_rng(2).integers(0, 256, (500, 700), np.uint8)
    mask[-1] = 0
    path = tmp_path / "x.png"
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in mask))
    parts = [rows[k : k + 70_000] for k in range(0, len(rows), 70_000)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 700, 500, 8, 0, 0, 0, 0))
    body = b"".join(chunk(b"IDAT", part) + chunk(b"IDAT", b"") for part in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read_raw_mask(path), mask)
    with pytest.raises(DataError, match="500 of its 9000 rows"):
        read_raw_mask(claim(path, 9000))
