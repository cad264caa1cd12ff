"""Pictures of any kind in, plain arrays out: (H, W, C), then (H, W, 3) uint8 for the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.hardware import usable_cores
from semseg_automl.data.headers import explain, orientation_of, read_header

Source = str | os.PathLike | np.ndarray | Image.Image

_CHANNELS = (1, 3, 4)
_DEEP_MODES = ("I", "F")
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class IntensityScaling:
    """Linear map of 16-bit or float intensities to 0..255: ``low`` becomes 0, ``high`` 255, clipped."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.high > self.low):
            raise ConfigError(
                f"IntensityScaling needs finite low < high, got {self.low!r} and {self.high!r}."
            )


def as_path(source: str | os.PathLike) -> str:
    """Path of a string or path-like; ``file://`` URLs are turned into paths, ``~`` is expanded."""
    text = os.fspath(source)
    if text.lower().startswith("file:"):
        parts = urlsplit(text)
        host = "" if parts.netloc in ("", "localhost") else f"//{parts.netloc}"
        return url2pathname(host + parts.path)
    return os.path.expanduser(text)


def describe(source: Source) -> str:
    """How a picture is called in messages: its path, or what kind of object it is."""
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape} and dtype {source.dtype}"
    if isinstance(source, Image.Image):
        return f"PIL image of size {source.size} and mode {source.mode}"
    return as_path(source)


def open_pixels(source: Source, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Decode a file or PIL image through ``convert`` and apply its EXIF orientation.

    Raises
    ------
    DataError
        Naming the file, if it is missing, truncated or not a picture.
    """
    try:
        if isinstance(source, Image.Image):
            source.load()
            return _turn(convert(source), orientation_of(source, loaded=True))
        with Image.open(as_path(source)) as image:  # type: ignore[arg-type]
            image.load()
            return _turn(convert(image), orientation_of(image, loaded=True))
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file makes them stumble over
        raise DataError(f"{describe(source)}: {explain(error)}") from error


def read_image(source: Source) -> np.ndarray:
    """Read one picture.

    Parameters
    ----------
    source : path, ``file://`` URL, array or PIL image
        Arrays are (H, W) or (H, W, C). PNG, JPEG, BMP, TIFF (first page), WebP and what else
        Pillow reads. Palette pictures become RGB (RGBA with transparency), CMYK becomes RGB.

    Returns
    -------
    array, (H, W, C) with C in {1, 3, 4}, uint8, uint16 or float32
        EXIF orientation applied. Pillow reduces 16-bit *colour* files to 8 bits; 16-bit grey is kept.

    Raises
    ------
    DataError
        Naming the file, if it can't be decoded, or for an array of an unsupported shape or dtype.
    """
    if isinstance(source, np.ndarray):
        check_shape(source)
        pixels = _plain_dtype(source)
    else:
        pixels = _plain_dtype(open_pixels(source, _pixels_of))
    return np.ascontiguousarray(pixels[..., None] if pixels.ndim == 2 else pixels)


def image_size(source: Source) -> tuple[int, int]:
    """(H, W) after EXIF orientation; reads only the header of a file (see ``headers``)."""
    if isinstance(source, np.ndarray):
        check_shape(source)
        return source.shape[0], source.shape[1]
    if isinstance(source, Image.Image):
        source.load()
        width, height = source.size
        turned = orientation_of(source, loaded=True) >= 5
        return (width, height) if turned else (height, width)
    return read_header(as_path(source)).size


def check_shape(array: np.ndarray) -> None:
    """Raise DataError unless the array is (H, W) or (H, W, C) with C in {1, 3, 4} and not empty."""
    good = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS)
    if not good or 0 in array.shape:
        raise DataError(f"{describe(array)}: pictures are (H, W) or (H, W, C) with 1, 3 or 4 channels last.")


def to_rgb(array: np.ndarray, scaling: IntensityScaling | None = None) -> np.ndarray:
    """Turn what :func:`read_image` returns into what the network sees.

    Grey is repeated three times; an alpha channel is dropped (colours under it are kept as they
    are stored). 8-bit values pass unchanged. 16-bit and float values are mapped by ``scaling``;
    without one, 16 bits are divided by 257, floats within [0, 1] are multiplied by 255 and other
    floats are taken as 0..255. NaN counts as the lowest value.

    Parameters
    ----------
    array : (H, W) or (H, W, C), C in {1, 3, 4}
    scaling : IntensityScaling or None

    Returns
    -------
    array, (H, W, 3) uint8
    """
    check_shape(array)
    pixels = array[..., None] if array.ndim == 2 else array
    pixels = pixels[..., :3]  # (H, W, 1 or 3): alpha dropped
    if pixels.dtype != np.uint8:
        pixels = _to_uint8(_plain_dtype(pixels), scaling)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)  # (H, W, 1) -> (H, W, 3)
    return np.ascontiguousarray(pixels)


def infer_scaling(sources: Sequence[Source], *, sample: int = 64) -> IntensityScaling | None:
    """Intensity range of a table's 16-bit and float pictures; None if every picture is 8-bit.

    low and high are the 0.1 % and 99.9 % quantiles over the pixels of up to ``sample`` such
    pictures, evenly spread over the table, so that a few hot pixels don't darken the rest.
    """
    deep = [s for s, flag in zip(sources, parallel(_is_deep, sources), strict=True) if flag]
    if not deep:
        return None
    chosen = [deep[i] for i in np.unique(np.linspace(0, len(deep) - 1, sample).astype(int))]
    values = np.concatenate(parallel(_sampled_values, chosen))
    if not values.size:
        return IntensityScaling(0.0, 1.0)
    low, high = (float(q) for q in np.quantile(values, (0.001, 0.999)))
    return IntensityScaling(low, high if high > low else low + 1.0)


def parallel(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """``[function(i) for i in items]``, in threads when there are many (decoding releases the GIL)."""
    if len(items) < 32:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        return list(pool.map(function, items))


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
    """Array of a decoded PIL image: grey of any depth, RGB or RGBA."""
    mode = image.mode
    if mode in ("L", "RGB", "RGBA", "F") or mode.startswith("I;16"):
        return np.asarray(image)
    if mode == "I":  # 32-bit signed, as Pillow opens some 16-bit files
        wide = np.asarray(image)
        return wide.astype(np.uint16 if wide.min() >= 0 and wide.max() <= 65535 else np.float32)
    if mode == "1":
        return np.asarray(image.convert("L"))
    transparent = mode in ("LA", "La", "PA", "RGBa") or (mode == "P" and "transparency" in image.info)
    if mode in ("La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _plain_dtype(pixels: np.ndarray) -> np.ndarray:
    """Bring any real dtype to uint8, uint16 or float32 (integers by their range, bool to 0 and 255)."""
    if pixels.dtype in (np.uint8, np.float32):
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    if pixels.dtype.kind not in "iu":
        raise DataError(f"{describe(pixels)}: pictures hold integers, floats or booleans.")
    if pixels.dtype.itemsize == 2 and pixels.dtype.kind == "u":
        return pixels.astype(np.uint16)  # also undoes big-endian storage
    low, high = pixels.min(), pixels.max()
    if low >= 0 and high <= 65535:
        return pixels.astype(np.uint8 if high <= 255 else np.uint16)
    return pixels.astype(np.float32)


def _to_uint8(pixels: np.ndarray, scaling: IntensityScaling | None) -> np.ndarray:
    values = np.nan_to_num(pixels.astype(np.float32), nan=-np.inf)
    if scaling is not None:
        values = (values - scaling.low) * (255.0 / (scaling.high - scaling.low))
    elif pixels.dtype == np.uint16:
        values = values / 257.0
    elif values.max() <= 1.0:
        values = values * 255.0
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def _is_deep(source: Source) -> bool:
    if isinstance(source, np.ndarray):
        return _plain_dtype(source).dtype != np.uint8
    mode = source.mode if isinstance(source, Image.Image) else read_header(as_path(source)).mode
    return mode in _DEEP_MODES or mode.startswith("I;16")


def _sampled_values(source: Any) -> np.ndarray:
    """About 20,000 finite values of a picture (alpha left out), evenly spread, float32."""
    pixels = read_image(source)
    flat = pixels[..., :3].reshape(-1)  # (H, W, C) -> (H*W*C,)
    step = max(1, flat.size // 20_000)
    values = flat[:: step | 1].astype(np.float32)
    return values[np.isfinite(values)]
