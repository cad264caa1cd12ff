"""Single changes of a picture (and its mask): turned, rotated, blurred, compressed (torchvision's), noisy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from semseg_automl.data.label_map import IGNORE
from semseg_automl.data.preprocess import MEAN

if TYPE_CHECKING:
    from torch import Tensor

FILL = tuple(round(m) for m in MEAN)
"""Colour beside the picture: about 0 after normalisation."""


def quarter_turns(image: np.ndarray, mask: np.ndarray, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn (H, W, 3) and (H, W) by ``turns`` times 90 degrees counter-clockwise (views, not copies)."""
    return np.rot90(image, turns), np.rot90(mask, turns)


def room_to_rotate(size: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Size (h, w) of the upright window that holds a window of ``size`` rotated by ``degrees``."""
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    return math.ceil(size[0] * cosine + size[1] * sine), math.ceil(size[1] * cosine + size[0] * sine)


def rotate(
    image: np.ndarray, mask: np.ndarray, degrees: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The middle of the picture rotated counter-clockwise, cut to ``size``: torchvision's ``rotate``.

    Parameters
    ----------
    image, mask : (H, W, 3) uint8, (H, W) int16
    degrees : float
    size : (h, w) of the answer

    Returns
    -------
    (h, w, 3) uint8, bilinear, the mean colour outside of the picture; (h, w) int16, nearest, IGNORE outside
    """
    from torchvision.transforms.v2 import functional as tv

    bilinear = tv.InterpolationMode.BILINEAR
    lacking = [max(0, new - old) for new, old in zip(size, mask.shape, strict=True)]
    top, left = lacking[0] // 2, lacking[1] // 2
    borders = [left, top, lacking[1] - left, lacking[0] - top]
    # as a PIL image: of tensors, torchvision darkens a picture's rim (it weighs it twice before it fills)
    picture, labels = Image.fromarray(np.ascontiguousarray(image)), as_tensors(image, mask)[1]
    if any(borders):  # cutting the middle out of less would fill with zeros
        picture, labels = tv.pad(picture, borders, fill=list(FILL)), tv.pad(labels, borders, fill=IGNORE)
    picture = tv.rotate(picture, degrees, interpolation=bilinear, fill=list(FILL))
    labels = tv.rotate(labels, degrees, fill=IGNORE)
    picture, labels = tv.center_crop(picture, list(size)), tv.center_crop(labels, list(size))
    return np.asarray(picture), labels.reshape(size).numpy()


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, 3) uint8, ``sigma`` in pixels: torchvision's, cut off at 2.5 sigma."""
    from torchvision.transforms.v2 import functional as tv

    side = 2 * math.ceil(2.5 * sigma) + 1
    return to_array(tv.gaussian_blur(to_tensor(image), [side, side], [sigma, sigma]))


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Write (H, W, 3) uint8 as JPEG of ``quality`` 1..100 and read it again: torchvision's ``jpeg``."""
    from torchvision.transforms.v2 import functional as tv

    return to_array(tv.jpeg(to_tensor(image), quality))


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add independent Gaussian noise, ``sigma`` in grey levels, to (H, W, 3) uint8; clipped.

    Not torchvision's, which draws from torch's one generator and is not in every version that is supported.
    """
    added = rng.standard_normal(image.shape, dtype=np.float32)
    added *= sigma
    added += image
    return np.rint(np.clip(added, 0, 255, out=added), out=added).astype(np.uint8)


def to_tensor(image: np.ndarray) -> Any:
    """(H, W, 3) uint8 array -> tv_tensors.Image (3, H, W)."""
    import torch
    from torchvision import tv_tensors

    return tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def as_tensors(image: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
    """(H, W, 3) uint8 and (H, W) int16 arrays -> tv_tensors.Image (3, H, W) and tv_tensors.Mask (H, W)."""
    import torch
    from torchvision import tv_tensors

    return to_tensor(image), tv_tensors.Mask(torch.from_numpy(np.array(mask)))


def to_array(image: Tensor) -> np.ndarray:
    """(3, H, W) tensor -> (H, W, 3) array."""
    return image.permute(1, 2, 0).contiguous().numpy()


def as_arrays(image: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of :func:`as_tensors`; the mask int16, with or without an axis of one channel."""
    import torch

    return to_array(image), mask.reshape(mask.shape[-2:]).to(torch.int16).numpy()
