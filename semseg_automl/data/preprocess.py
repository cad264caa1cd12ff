"""From a picture of any size to the network's tensor, with the geometry that leads back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import ConfigError
from semseg_automl.data.label_map import IGNORE

MEAN = (123.675, 116.28, 103.53)  # of RGB 0..255: ImageNet's, as in SAM (Kirillov et al., ICCV 2023)
STD = (58.395, 57.12, 57.375)
"""Channels beyond the third have the means of these numbers."""

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes (H, W) of a picture as stored, resized (aspect kept), and padded right and bottom."""

    original: Size
    resized: Size
    padded: Size


def plan_geometry(size: Size, image_size: ImageSize, multiple: int = 32) -> Geometry:
    """Plan how a picture of ``size`` (H, W) meets the network.

    Parameters
    ----------
    size : (H, W) of the picture
    image_size : int or (H, W)
        int: the long side becomes exactly this, up or down, the short side follows (at least 1 pixel)
        and is padded to ``multiple``. (H, W): the picture is fitted inside, then padded to exactly
        that, rounded up to ``multiple``.
    multiple : int
        What the network's strides divide.
    """
    height, width = size
    box = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    if min(height, width, *box, multiple) < 1:
        raise ConfigError(
            f"Sizes are positive: picture {size}, image_size {image_size!r}, multiple {multiple}."
        )
    scale = min(box[0] / height, box[1] / width)
    resized = max(1, min(box[0], round(height * scale))), max(1, min(box[1], round(width * scale)))
    filled = resized if isinstance(image_size, int) else box
    padded = _up(filled[0], multiple), _up(filled[1], multiple)
    return Geometry(original=(height, width), resized=resized, padded=padded)


def resize_rgb(rgb: np.ndarray, size: Size, box: Box | None = None) -> np.ndarray:
    """Resize (H, W, C) uint8 to (h, w, C) uint8, bilinear with antialiasing (Pillow's).

    ``box``: the part that is seen, (left, top, right, bottom) in stored pixels; None: all of it.
    """
    if box is None and rgb.shape[:2] == tuple(size):
        return rgb
    if rgb.shape[2] != 3:  # Pillow has no pictures of so many channels; it treats each one alone
        planes = [np.ascontiguousarray(rgb[..., k]) for k in range(rgb.shape[2])]
        return np.stack([_resized(plane, size, box) for plane in planes], axis=2)  # C x (h, w) -> (h, w, C)
    return _resized(rgb, size, box)


def _resized(pixels: np.ndarray, size: Size, box: Box | None) -> np.ndarray:
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def resize_indices(indices: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W) class indices to (h, w): the source pixel whose area holds the target's centre."""
    if indices.shape == tuple(size):
        return indices
    rows, columns = (nearest_index(old, new) for old, new in zip(indices.shape, size, strict=True))
    return indices[rows[:, None], columns]  # (h, 1) x (w,) -> (h, w)


def nearest_index(old: int, new: int) -> np.ndarray:
    """For each of ``new`` pixels the index of the nearest of ``old`` pixels, (new,) int64."""
    return ((2 * np.arange(new) + 1) * old) // (2 * new)


def normalise(rgb: np.ndarray, padded: Size) -> torch.Tensor:
    """(h, w, C) uint8 to float32 (C, H', W'): minus MEAN, over STD, zeros right and bottom."""
    height, width, channels = rgb.shape
    out = torch.zeros((channels, *padded), dtype=torch.float32)
    pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # (h, w, C) -> (C, h, w)
    inner = out[:, :height, :width]
    inner.copy_(pixels)
    mean, std = (torch.tensor(statistics(s, channels)).view(-1, 1, 1) for s in (MEAN, STD))
    inner.sub_(mean).div_(std)
    return out


def statistics(known: tuple[float, float, float], channels: int) -> tuple[float, ...]:
    """MEAN or STD for ``channels`` (at least 3) channels: those beyond the third get the three's mean."""
    return (*known, *[sum(known) / 3] * (channels - 3))


def pad_indices(indices: np.ndarray, padded: Size) -> torch.Tensor:
    """(h, w) class indices to int64 (H', W'), IGNORE right and bottom."""
    out = torch.full(padded, IGNORE, dtype=torch.int64)
    out[: indices.shape[0], : indices.shape[1]] = torch.from_numpy(np.array(indices))
    return out


def prepare_image(rgb: np.ndarray, geometry: Geometry) -> torch.Tensor:
    """Resize, normalise and pad one picture.

    Parameters
    ----------
    rgb : (H, W, C) uint8, ``geometry.original`` in size
    geometry : Geometry

    Returns
    -------
    tensor, float32 (C, H', W')
        Resized to 8 bits first, so that cached and freshly read pictures give the same bits;
        padding is 0 after normalisation.
    """
    return normalise(resize_rgb(rgb, geometry.resized), geometry.padded)


def prepare_mask(indices: np.ndarray, geometry: Geometry) -> torch.Tensor:
    """Resize (nearest) and pad (IGNORE) class indices (H, W) int16 to int64 (H', W')."""
    return pad_indices(resize_indices(indices, geometry.resized), geometry.padded)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
