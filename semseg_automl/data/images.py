"""From pictures of any depth and number of channels to the 8-bit pictures that the network sees.

The front door to pictures: :func:`read_image`, :func:`image_size` and their like are re-exported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.headers import Header
from semseg_automl.data.reading import (
    MAX_CHANNELS,
    check_shape,
    image_size,
    open_pixels,
    picture_header,
    plain_dtype,
    read_image,
)
from semseg_automl.data.sources import Source, as_path, describe, parallel

__all__ = [
    "Header",
    "IntensityScaling",
    "Source",
    "as_path",
    "can_be_seen",
    "describe",
    "image_size",
    "infer_scaling",
    "network_channels",
    "open_pixels",
    "parallel",
    "picture_header",
    "read_image",
    "read_seen",
    "to_rgb",
]

Level = float | tuple[float, ...]
_SEEN = 3  # channels that SAM's encoders know


@dataclass(frozen=True)
class IntensityScaling:
    """How pictures become 8 bit: ``low`` becomes 0, ``high`` 255, linear between, clipped.

    Decided over the whole training table and stored with the model.

    Attributes
    ----------
    low, high : a number for all channels, or one for each of more than three
    channels : what the network sees: 3 (grey and two-channel pictures are brought to it), or 4 to 16
    """

    low: Level
    high: Level
    channels: int = _SEEN

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        low, high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        whole = low.shape == high.shape and low.shape in ((), (self.channels,))
        if not whole or not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all()):
            raise ConfigError(
                f"IntensityScaling needs finite low < high, got {self.low!r} and {self.high!r} "
                f"for {self.channels} channels."
            )
        if not _SEEN <= self.channels <= MAX_CHANNELS:
            raise ConfigError(f"A network sees 3 to {MAX_CHANNELS} channels, got {self.channels!r}.")


def network_channels(scaling: IntensityScaling | None) -> int:
    """Channels of the network's input: 3 unless the pictures have more."""
    return _SEEN if scaling is None else scaling.channels


def can_be_seen(found: int, seen: int) -> bool:
    """Whether :func:`to_rgb` brings pictures of ``found`` channels to the ``seen`` of a network."""
    return found == seen or (seen == _SEEN and found <= _SEEN + 1)


def read_seen(source: Source, scaling: IntensityScaling | None = None) -> np.ndarray:
    """:func:`read_image`, then :func:`to_rgb`, with errors that name the file."""
    pixels = read_image(source)
    try:
        return to_rgb(pixels, scaling)
    except DataError as error:
        raise DataError(f"{describe(source)}: {error}") from error


def to_rgb(array: np.ndarray, scaling: IntensityScaling | None = None) -> np.ndarray:
    """Turn what :func:`read_image` returns into what the network sees.

    For a network of three channels, grey is repeated three times, two channels get their mean as a
    third, and a fourth is dropped. 8-bit values pass unchanged. 16-bit and float values are mapped
    by ``scaling``; without one, 16 bits are divided by 257, floats within [0, 1] are multiplied by
    255 and other floats are taken as 0..255. NaN counts as the lowest value.

    Parameters
    ----------
    array : (H, W) or (H, W, C)
    scaling : IntensityScaling or None

    Returns
    -------
    array, (H, W, 3) uint8, or (H, W, C) for a scaling of C > 3 channels

    Raises
    ------
    DataError
        The picture's number of channels is not what the network was trained on.
    """
    check_shape(array)
    pixels = array[..., None] if array.ndim == 2 else array
    seen, found = network_channels(scaling), pixels.shape[2]
    if not can_be_seen(found, seen):
        raise DataError(
            f"it has {found} channels, the model was trained on pictures of {_trained_on(seen)}: "
            "give pictures of that kind, or fit a model to these"
        )
    pixels = pixels[..., :seen]
    if pixels.dtype != np.uint8:
        pixels = _to_uint8(plain_dtype(pixels), scaling)
    if found == 1:
        pixels = np.repeat(pixels, _SEEN, axis=2)  # (H, W, 1) -> (H, W, 3)
    if found == 2:
        mean = ((pixels[..., :1].astype(np.uint16) + pixels[..., 1:]) // 2).astype(np.uint8)
        pixels = np.concatenate([pixels, mean], axis=2)  # (H, W, 2) -> (H, W, 3)
    return np.ascontiguousarray(pixels)


def infer_scaling(
    sources: Sequence[Source], *, headers: Sequence[Header] | None = None, sample: int = 64
) -> IntensityScaling | None:
    """How a table's pictures become 8 bit; None if every picture is 8-bit and has at most three channels.

    low and high are the 0.1 % and 99.9 % quantiles over the pixels of up to ``sample`` of the 16-bit
    and float pictures, evenly spread over the table, so that a few hot pixels don't darken the rest;
    one pair for pictures of up to three channels, whose colours it keeps, else one for each.

    Parameters
    ----------
    sources : the table's pictures, all of one kind (see ``frame.check_table``)
    headers : theirs, if they have been read already
    """
    known = list(headers or parallel(picture_header, sources))
    widest = max((h.channels for h in known), default=_SEEN)
    channels = max(_SEEN, widest)
    deep = [s for s, header in zip(sources, known, strict=True) if header.deep]
    if not deep:
        return None if channels == _SEEN else IntensityScaling(0.0, 255.0, channels)
    chosen = [deep[i] for i in np.unique(np.linspace(0, len(deep) - 1, sample).astype(int))]
    values = np.concatenate(parallel(_sampled_values, chosen))  # (n, C), or (n, 1) for up to three
    ranges = [_range(column[np.isfinite(column)]) for column in values.T]
    if len(ranges) == 1:
        return IntensityScaling(*ranges[0], channels)
    low, high = zip(*ranges, strict=True)
    return IntensityScaling(low, high, channels)


def _trained_on(seen: int) -> str:
    return f"{seen} channels" if seen > _SEEN else "1 to 3 channels"


def _to_uint8(pixels: np.ndarray, scaling: IntensityScaling | None) -> np.ndarray:
    values = np.nan_to_num(pixels.astype(np.float32), nan=-np.inf)
    if scaling is not None:
        low, high = np.asarray(scaling.low), np.asarray(scaling.high)
        values = (values - low.astype(np.float32)) * (255.0 / (high - low)).astype(np.float32)
    elif pixels.dtype == np.uint16:
        values = values / 257.0
    elif values.max() <= 1.0:
        values = values * 255.0
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def _sampled_values(source: Any) -> np.ndarray:
    """About 20,000 pixels of a picture, evenly spread, float32 (n, C); (n, 1) for up to three channels."""
    pixels = read_image(source)
    channels = pixels.shape[2] if pixels.shape[2] > _SEEN else 1
    flat = pixels.reshape(-1, channels)  # (H, W, C) -> (H*W, C), or (H*W*C, 1)
    step = max(1, flat.size // 20_000)
    return flat[:: step | 1].astype(np.float32)


def _range(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(values, (0.001, 0.999)))
    return low, high if high > low else low + 1.0
