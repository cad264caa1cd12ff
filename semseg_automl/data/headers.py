"""What a picture file says about itself, without decoding its pixels.

Size (EXIF orientation applied), mode, and whether the file is all there. A file whose
end does not look as its format demands is decoded to settle the question, so nothing
that Pillow can read is refused and a truncated file is always found.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from semseg_automl.core.errors import DataError

ORIENTATION = 0x0112
_LATE_EXIF = (b"Raw profile type exif", b"XML:com.adobe.xmp")


@dataclass(frozen=True, kw_only=True)
class Header:
    """Size (H, W) after EXIF orientation, and Pillow's mode of a picture file."""

    size: tuple[int, int]
    mode: str


def read_header(path: str) -> Header:
    """Read a file's header and check cheaply that the file is complete.

    Raises
    ------
    DataError
        If the file is missing, not a picture, or truncated; the message begins with its name.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            settled = _looks_complete(file, image)
            orientation = orientation_of(image, loaded=False)
            width, height = _turned_tiff(image) or image.size
            mode = image.mode
        if not settled:
            with Image.open(path) as image:
                image.load()
                orientation = orientation_of(image, loaded=True)
                width, height = image.size
    except Exception as error:  # Pillow's plugins raise whatever a broken file makes them stumble over
        raise DataError(f"{path}: {explain(error)}") from error
    if orientation >= 5:  # a quarter turn
        width, height = height, width
    return Header(size=(height, width), mode=mode)


def orientation_of(image: Image.Image, *, loaded: bool) -> int:
    """EXIF orientation (1..8) that is still to be applied to an opened or loaded picture.

    Pillow turns TIFF pictures itself when it decodes them, so theirs is always 1.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    # PngImageFile.getexif decodes the picture; Image.getexif reads what the header held.
    exif = image.getexif() if loaded else Image.Image.getexif(image)
    value = exif.get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned_tiff(image: Image.Image) -> tuple[int, int] | None:
    """(width, height) that a TIFF has once decoded: whether Pillow tells before depends on its version."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    width, height = image.tag_v2[256], image.tag_v2[257]
    return (height, width) if image.tag_v2.get(ORIENTATION, 1) >= 5 else (width, height)


def explain(error: Exception) -> str:
    """A reader's error in words that tell the user what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read (PNG, JPEG, BMP, TIFF, WebP; 1, 3 or 4 channels)"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
    return f"can't be decoded ({type(error).__name__}: {error})"


def _looks_complete(file: BinaryIO, image: Image.Image) -> bool:
    """True if the file certainly has its end and its EXIF was in the header; False: decode to know."""
    total = os.fstat(file.fileno()).st_size
    if image.format == "PNG":
        return _png_complete(file, total)
    if image.format in ("JPEG", "MPO"):
        file.seek(max(0, total - 64))
        return file.read().rstrip(b"\0").endswith(b"\xff\xd9")
    if image.format == "WEBP":
        file.seek(4)
        return struct.unpack("<I", file.read(4))[0] + 8 <= total
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_complete(image, total)
    return False


def _png_complete(file: BinaryIO, total: int) -> bool:
    """Walk the chunks to IEND (PNG specification, section 5); EXIF after the pixels counts as not settled."""
    position, pixels_seen = 8, False
    while position + 12 <= total:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return pixels_seen
        if pixels_seen and kind == b"eXIf":
            return False
        if pixels_seen and kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(32).startswith(_LATE_EXIF):
            return False
        pixels_seen = pixels_seen or kind == b"IDAT"
        position += 12 + length  # length, kind, data, checksum
    return False


def _tiff_complete(image: TiffImagePlugin.TiffImageFile, total: int) -> bool:
    """Every strip (tags 273, 279) or tile (324, 325) must end inside the file."""
    tags = image.tag_v2
    offsets = tags.get(273) or tags.get(324)
    counts = tags.get(279) or tags.get(325)
    if not offsets or not counts or len(offsets) != len(counts):
        return False
    return all(offset + count <= total for offset, count in zip(offsets, counts, strict=True))
