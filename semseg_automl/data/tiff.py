"""What a TIFF says about itself, and the pixels of those that Pillow would change or refuse.

Pillow reads TIFFs of one sample (8 bits, 16 bits, signed 32 bits, 32-bit float) and 8-bit colour as
they are. Others it refuses or, worse, alters without a word: 16-bit colour loses its low byte, signed
bytes and unsigned 32-bit numbers wrap, bands beyond the third are dropped. Those are read with the
optional package tifffile, which knows them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.optional import require
from semseg_automl.data.remote import open_binary

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112
_SUBFILE, _WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _SAMPLES = 254, 256, 257, 258, 262, 277
_PLACES = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles
_EXTRA, _FORMAT, _NODATA = 338, 339, 42113
_PALETTE, _CMYK, _YCBCR = 3, 5, 6
_COLOUR = {2: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, 8: 3}  # photometric interpretation -> samples
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # sample formats
_DEEP_EXACT = {(16, _UNSIGNED), (16, _SIGNED), (32, _SIGNED), (32, _FLOAT)}  # one sample of (bits, format)
_ALPHA = (1, 2)  # kinds of extra samples


@dataclass(frozen=True, kw_only=True)
class TiffHeader:
    """A one-page TIFF's own words.

    Attributes
    ----------
    size : (H, W) as stored, before ``orientation`` (1..8) is applied
    channels : samples of a pixel without a declared alpha channel; palette, CMYK and YCbCr: 3
    alpha : whether one of the samples is declared to be alpha
    deep : other than 8 bits (or fewer) unsigned
    exact : Pillow returns these very pixels
    complete : every strip or tile ends inside the file
    nodata : GDAL's value for "nothing was measured here", or None
    """

    size: tuple[int, int]
    orientation: int
    channels: int
    alpha: bool
    deep: bool
    exact: bool
    complete: bool
    nodata: float | None


def read_tiff_header(file: IO[bytes], total: int) -> TiffHeader:
    """Read the tags of a TIFF or BigTIFF of ``total`` bytes.

    Raises
    ------
    DataError
        Without the file's name: more than one page, or no picture.
    """
    directory = _reader(file)
    first, following = _directory(file, directory)
    seen = set()
    while following and following not in seen:  # overviews and masks may follow, pages may not
        seen.add(following)
        directory.next = following
        tags, following = _directory(file, directory)
        if not int(tags.get(_SUBFILE, 0)) & 5:  # bit 0: a smaller copy; bit 2: a transparency mask
            raise DataError(
                "holds more than one page, and a picture is one. Save each page as a file of its own "
                "(PIL.ImageSequence, tiffsplit), or give the page you mean as an array"
            )
    return _header(first, total)


def first_tags(file: IO[bytes]) -> dict[int, Any]:
    """Tag -> value (a number, a tuple of them, or text) of a TIFF's first page."""
    return _directory(file, _reader(file))[0]


def _reader(file: IO[bytes]) -> Any:
    file.seek(0)
    head = file.read(8)
    if head[2:4] in (b"+\0", b"\0+"):  # a BigTIFF
        head += file.read(8)
    return TiffImagePlugin.ImageFileDirectory_v2(head)


def _directory(file: IO[bytes], directory: Any) -> tuple[dict[int, Any], int]:
    """Tags of the directory at ``directory.next``, and where the one after it begins (0: nowhere)."""
    file.seek(directory.next)
    directory.load(file)
    return dict(directory), int(directory.next)


def _header(tags: Mapping[int, Any], total: int) -> TiffHeader:
    if min(tags.get(_WIDTH, 0), tags.get(_LENGTH, 0)) < 1:
        raise DataError("is a TIFF without a picture")
    samples, photometric = int(tags.get(_SAMPLES, 1)), int(tags.get(_PHOTOMETRIC, 1))
    bits, formats = set(_several(tags.get(_BITS, 1))), set(_several(tags.get(_FORMAT, _UNSIGNED)))
    alpha = any(kind in _ALPHA for kind in _several(tags.get(_EXTRA, ())))
    plain = max(bits) <= 8 and formats <= {_UNSIGNED} and samples - alpha == _COLOUR.get(photometric, 1)
    orientation = tags.get(ORIENTATION, 1)
    return TiffHeader(
        size=(int(tags[_LENGTH]), int(tags[_WIDTH])),
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        channels=3 if plain and photometric in (_PALETTE, _CMYK, _YCBCR) else samples - alpha,
        alpha=alpha,
        deep=max(bits) > 8 or not formats <= {_UNSIGNED},
        exact=plain or (samples == 1 and (max(bits), max(formats)) in _DEEP_EXACT),
        complete=_complete(tags, total),
        nodata=_number(tags.get(_NODATA)),
    )


def read_tiff(path: str, header: TiffHeader) -> np.ndarray:
    """Pixels of a TIFF that Pillow can't give, (H, W) or (H, W, C), orientation not yet applied.

    A declared alpha channel is left out; in float pictures, GDAL's "no data" value becomes NaN.

    Raises
    ------
    DataError
        tifffile (or imagecodecs, for its kind of compression) is not installed.
    """
    if header.size[0] * header.size[1] > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
        raise Image.DecompressionBombError(f"{header.size[0] * header.size[1]} pixels")
    with open_binary(path) as file, tifffile_for(path).TiffFile(file) as tiff:
        page = tiff.pages[0]
        pixels = np.asarray(page.asarray())
        if pixels.ndim not in (2, 3) or not pixels.size:
            raise ValueError(f"it is damaged: its pixels have the shape {pixels.shape}")
        if page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)  # (C, H, W) -> (H, W, C)
    pixels = pixels[..., : header.channels] if pixels.ndim == 3 else pixels
    if header.nodata is not None and pixels.dtype.kind == "f":
        pixels = np.where(pixels == header.nodata, np.nan, pixels)
    return pixels


def tifffile_for(path: str) -> Any:
    """The module tifffile, or a DataError that names the file which needs it."""
    try:
        return require("tifffile", extra="tiff", purpose="A TIFF of this kind of samples")
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error


def _several(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)


def _number(text: Any) -> float | None:
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _complete(tags: Mapping[int, Any], total: int) -> bool:
    for at, length in _PLACES:
        if tags.get(at) and tags.get(length):
            offsets, counts = _several(tags[at]), _several(tags[length])
            ends = (o + c for o, c in zip(offsets, counts, strict=False))
            return len(offsets) == len(counts) and all(end <= total for end in ends)
    return False
