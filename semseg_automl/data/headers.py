"""What a picture file says about itself, without decoding its pixels.

Size (EXIF orientation applied), channels, depth, and whether the file is all there. A file whose
end does not look as its format demands is decoded to settle the question, so nothing
that can be read is refused and a truncated file is always found.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from semseg_automl.core.errors import DataError
from semseg_automl.data.png import is_complete
from semseg_automl.data.remote import open_binary, size_of
from semseg_automl.data.tiff import MAGIC, ORIENTATION, TiffHeader, read_tiff, read_tiff_header, tifffile_for

_GREY = ("1", "L", "LA", "La", "I", "F")
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # a JPEG's further frames (MPO) are previews and depth maps


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a picture before its pixels are read.

    Attributes
    ----------
    size : (H, W) after EXIF orientation
    channels : 1..16, alpha not counted
    deep : 16-bit, 32-bit or float samples
    """

    size: tuple[int, int]
    channels: int = 3
    deep: bool = False


def read_header(path: str) -> Header:
    """Read a file's header and check cheaply that the file is complete.

    Raises
    ------
    DataError
        If the file is missing, not a picture, truncated, or holds several pages or frames; the
        message begins with its name.
    """
    try:
        with open_binary(path) as file:
            tiff = tiff_header(file)
            if tiff is not None:
                return _checked_tiff(path, tiff)
            with Image.open(file) as image:
                settled = _looks_complete(file, image)
                orientation = orientation_of(image, loaded=False)
                width, height = image.size
                mode = image.mode
                _refuse_animation(image)
        if not settled:
            with open_binary(path) as file, Image.open(file) as image:
                image.load()
                orientation = orientation_of(image, loaded=True)
                width, height = image.size
    except Exception as error:  # Pillow's plugins raise whatever a broken file makes them stumble over
        raise DataError(f"{path}: {explain(error, path)}") from error
    size = (width, height) if orientation >= 5 else (height, width)  # 5 to 8: a quarter turn
    return Header(size=size, channels=channels_of(mode), deep=is_deep(mode))


def tiff_header(file: BinaryIO) -> TiffHeader | None:
    """A TIFF's header, or None for files of other formats; the file stands at its beginning then."""
    magic = file.read(4)
    file.seek(0)
    header = read_tiff_header(file, size_of(file)) if magic in MAGIC else None
    file.seek(0)
    return header


def channels_of(mode: str) -> int:
    """Channels (1 or 3) of pictures of a Pillow mode, alpha not counted."""
    return 1 if mode in _GREY or mode.startswith("I;16") else 3


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode has more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


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


def explain(error: Exception, path: str = "") -> str:
    """A reader's error in words that tell the user what to do; ``path`` is not repeated."""
    if isinstance(error, DataError):
        return str(error).removeprefix(f"{path}: ")
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "may not be read: change its permissions"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a picture"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read (PNG, JPEG, WebP, BMP, TIFF); export it as one of these"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
    return f"can't be decoded ({type(error).__name__}: {error}); save or copy it again"


def _checked_tiff(path: str, header: TiffHeader) -> Header:
    """The header of a TIFF that can be read here and is complete."""
    if not 1 <= header.channels <= 16:
        raise DataError(f"holds {header.channels} channels, pictures have 1 to 16; leave some out")
    if not header.exact:
        tifffile_for(path)
    if not header.complete:
        if not header.exact:
            read_tiff(path, header)
        else:
            with open_binary(path) as file, Image.open(file) as image:
                image.load()
    height, width = header.size
    size = (width, height) if header.orientation >= 5 else (height, width)
    return Header(size=size, channels=header.channels, deep=header.deep)


def _refuse_animation(image: Image.Image) -> None:
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
        raise DataError(
            "is an animation, and a picture is one frame. Save each frame as a file of its own "
            "(PIL.ImageSequence), or give the frame you mean as an array"
        )


def _looks_complete(file: BinaryIO, image: Image.Image) -> bool:
    """True if the file certainly has its end and its EXIF was in the header; False: decode to know."""
    total = size_of(file)
    if image.format == "PNG":
        return is_complete(file, total)
    if image.format in ("JPEG", "MPO"):
        file.seek(max(0, total - 64))
        return file.read().rstrip(b"\0").endswith(b"\xff\xd9")
    if image.format == "WEBP":
        file.seek(4)
        return struct.unpack("<I", file.read(4))[0] + 8 <= total
    return False
