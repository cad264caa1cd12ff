"""Pictures of any kind in, plain arrays (H, W, C) out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.headers import (
    Header,
    channels_of,
    explain,
    is_deep,
    orientation_of,
    read_header,
    tiff_header,
)
from semseg_automl.data.png import refuse_missing_rows
from semseg_automl.data.remote import open_binary
from semseg_automl.data.sources import Source, as_path, describe
from semseg_automl.data.tiff import read_tiff

MAX_CHANNELS = 16


def open_pixels(
    source: Source, convert: Callable[[Image.Image], np.ndarray], *, nodata: bool = False
) -> np.ndarray:
    """Decode a file or PIL image through ``convert`` and apply its EXIF orientation.

    TIFFs whose samples Pillow would change are read without it, and without ``convert``. ``nodata``: what a
    float TIFF says was not measured becomes NaN.

    Raises
    ------
    DataError
        Naming the file, if it is missing, truncated or not a picture.
    """
    try:
        if isinstance(source, Image.Image):
            source.load()
            return _turn(convert(source), orientation_of(source, loaded=True))
        path = as_path(source)  # type: ignore[arg-type]
        with open_binary(path) as file:
            tiff = tiff_header(file)
            if tiff is not None and not tiff.exact:
                return _turn(read_tiff(path, tiff), tiff.orientation)
            # by file, not by path: Pillow maps some TIFFs it has a path of, and scrambles turned ones
            with Image.open(file) as image:
                image.load()
                if image.format == "PNG" and _last_row_is_zero(image):
                    refuse_missing_rows(file)
                pixels = convert(image)
                if nodata and tiff is not None and tiff.nodata is not None and pixels.dtype.kind == "f":
                    pixels = np.where(pixels == tiff.nodata, np.nan, pixels)
                return _turn(pixels, orientation_of(image, loaded=True))
    except Exception as error:  # Pillow's plugins raise whatever a broken file makes them stumble over
        raise DataError(f"{describe(source)}: {explain(error, describe(source))}") from error


def read_image(source: Source) -> np.ndarray:
    """Read one picture.

    Parameters
    ----------
    source : path, URL (see ``data.remote``), array or PIL image
        Arrays are (H, W) or (H, W, C). PNG, JPEG, WebP, BMP, one-page TIFF (8, 16 or 32 bits, float,
        tiled, BigTIFF) and what else Pillow reads. Palette and CMYK pictures become RGB.

    Returns
    -------
    array, (H, W, C) with C from 1 to 16, uint8, uint16 or float32
        EXIF orientation applied; alpha that a file or PIL image declares is left out, colours under
        it as they are stored. The number type follows from the source's (other than 8 and unsigned
        16 bits: float32; bool: 0 and 255), never from its values. PNG files of 16-bit *colour* are
        reduced to 8 bits by Pillow; 16-bit grey is kept.

    Raises
    ------
    DataError
        Naming the file, if it can't be decoded, or for an array of an unsupported shape or dtype.
    """
    if isinstance(source, np.ndarray):
        check_shape(source)
        pixels = plain_dtype(source)
    else:
        pixels = plain_dtype(open_pixels(source, _pixels_of, nodata=True))
    return np.ascontiguousarray(pixels[..., None] if pixels.ndim == 2 else pixels)


def picture_header(source: Source) -> Header:
    """Size, channels and depth; reads only the header of a file (see ``headers``)."""
    if isinstance(source, np.ndarray):
        check_shape(source)
        if source.dtype.kind not in "biuf":
            raise _unsupported(source)
        return Header(
            size=(source.shape[0], source.shape[1]),
            channels=1 if source.ndim == 2 else source.shape[2],
            deep=source.dtype not in (np.uint8, np.bool_),
        )
    if isinstance(source, Image.Image):
        try:
            source.load()
            turned = orientation_of(source, loaded=True) >= 5
        except Exception as error:  # a lazily opened file may be closed, gone or broken by now
            raise DataError(f"{describe(source)}: {explain(error)}") from error
        width, height = source.size
        size = (width, height) if turned else (height, width)
        return Header(size=size, channels=channels_of(source.mode), deep=is_deep(source.mode))
    return read_header(as_path(source))


def image_size(source: Source) -> tuple[int, int]:
    """(H, W) after EXIF orientation; reads only the header of a file (see ``headers``)."""
    return picture_header(source).size


def check_shape(array: np.ndarray) -> None:
    """Raise DataError unless the array is (H, W) or (H, W, C) with C from 1 to 16, and not empty.

    Arrays with more channels than rows or columns are taken for channels-first ones and refused,
    but for C = 1, 3 and 4.
    """
    shape = array.shape
    good = array.ndim == 2 or (
        array.ndim == 3 and (shape[2] in (1, 3, 4) or 1 <= shape[2] <= min(MAX_CHANNELS, *shape[:2]))
    )
    if not good or 0 in shape:
        hint = ""
        if array.ndim == 3 and 0 < shape[0] <= MAX_CHANNELS and shape[0] < min(shape[1:]):
            hint = " Channels come first here: give array.transpose(1, 2, 0)."
        raise DataError(
            f"{describe(array)}: pictures are (H, W) or (H, W, C), 1 to {MAX_CHANNELS} channels last.{hint}"
        )


def plain_dtype(pixels: np.ndarray) -> np.ndarray:
    """Bring any real dtype to uint8, uint16 or float32 (bool to 0 and 255), by the dtype alone."""
    if pixels.dtype in (np.uint8, np.float32):
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "iuf":
        raise _unsupported(pixels)
    unsigned16 = pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2
    return pixels.astype(np.uint16 if unsigned16 else np.float32)  # also undoes big-endian storage


def _last_row_is_zero(image: Image.Image) -> bool:
    """Whether rows may be missing (of an interlaced picture, parts of rows)."""
    width, height = image.size
    last = image.crop((0, height - 1, width, height)).tobytes()
    return bool(image.info.get("interlace")) or not last.strip(b"\0")


def _unsupported(pixels: np.ndarray) -> DataError:
    return DataError(f"{describe(pixels)}: pictures hold integers, floats or booleans.")


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (TIFF 6.0, tag 274) to (H, W) or (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)  # (H, W, ...) -> (W, H, ...)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _pixels_of(image: Image.Image) -> np.ndarray:
    """Array of a decoded PIL image without alpha: grey of any depth, or RGB."""
    mode = image.mode
    if mode in ("L", "RGB", "F") or mode.startswith("I;16"):
        return np.asarray(image)
    if mode == "I":  # 32-bit signed, which is how some versions of Pillow open 16-bit PNGs
        wide = np.asarray(image)
        return wide.astype(np.uint16) if image.format == "PNG" else wide
    if mode == "1":
        return np.asarray(image.convert("L"))
    if mode in ("La", "LA"):
        return np.asarray(image.convert("LA"))[..., 0]  # (H, W, 2) -> (H, W)
    if mode in ("RGBA", "RGBa", "PA") or (mode == "P" and "transparency" in image.info):
        return np.asarray(image.convert("RGBA"))[..., :3]
    return np.asarray(image.convert("RGB"))
