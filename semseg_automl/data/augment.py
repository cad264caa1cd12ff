"""Random changes of picture and mask together: recipes by name, or the user's own.

What changes: torchvision.transforms.v2 on tv_tensors, and the user's own may be any v2 transform
(:func:`resolve_augment`). But flips, the window that scale and crop share, and colour are numpy and Pillow:
they are in the recipes that short fits are planned with, where flips are views, one resize serves scale and
crop, and brightness, contrast and saturation are one matrix. The tests hold them against v2's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.data.augment_ops import (
    FILL,
    as_arrays,
    as_tensors,
    blur,
    compress,
    noise,
    quarter_turns,
    room_to_rotate,
    rotate,
)
from semseg_automl.data.class_crops import ClassCrops, place_of
from semseg_automl.data.label_map import IGNORE
from semseg_automl.data.preprocess import nearest_index

Augmentation = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's and torchvision's grey


@dataclass(frozen=True, kw_only=True)
class Augment:
    """A recipe; calling it returns new arrays of the same dtypes, of the same shape or that of the crop.

    Attributes
    ----------
    horizontal_flip, vertical_flip : probability
    quarter_turns : bool
        0, 90, 180 or 270 degrees, equally often; a whole picture that is not square: 0 or 180.
    scale : (low, high) or None
        Factor, log-uniform. Above 1 a random window is enlarged to the whole; below 1 the picture
        shrinks to a random place on the mean colour, where the mask is IGNORE.
    rotation : float
        Largest angle in degrees, to either side; ``rotation_share`` of the pictures are rotated. A crop
        is cut from a window that holds it, so that its corners are picture where there is some.
    brightness, contrast, saturation : float
        Factors drawn from 1 - x .. 1 + x. Contrast turns around the picture's mean grey.
    blur, noise : float
        Largest sigma, in pixels and in grey levels.
    jpeg : int or None
        Lowest quality; the highest is 95.
    spoilt : probability of each of blur, noise and jpeg
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    quarter_turns: bool = False
    scale: tuple[float, float] | None = None
    rotation: float = 0.0
    rotation_share: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int | None = None
    spoilt: float = 0.2

    @property
    def only_flips(self) -> bool:
        """Whether it makes a handful of pictures of one, mirrored, and no others."""
        return self == Augment(horizontal_flip=self.horizontal_flip, vertical_flip=self.vertical_flip)

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        rng: np.random.Generator,
        crop: tuple[int, int] | None = None,
        aim: ClassCrops | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment image (H, W, 3) uint8 and mask (H, W) int16; all randomness comes from ``rng``.

        ``crop``: size (h, w) of the answer, a random window of the rescaled picture; None keeps (H, W).
        ``aim``: where the window lies; None: anywhere.
        """
        if rng.random() < self.horizontal_flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if rng.random() < self.vertical_flip:
            image, mask = image[::-1], mask[::-1]
        if self.quarter_turns:
            any_turn = crop is not None or mask.shape[0] == mask.shape[1]
            turns = int(rng.integers(4)) if any_turn else 2 * int(rng.integers(2))
            image, mask = quarter_turns(image, mask, turns)
        image, mask = self._window(image, mask, rng, crop, aim)
        if self.brightness or self.contrast or self.saturation:
            spread = np.array([self.brightness, self.contrast, self.saturation])
            image = jitter(image, *(1.0 + spread * rng.uniform(-1.0, 1.0, 3)))
        return np.ascontiguousarray(self._spoil(image, rng)), np.ascontiguousarray(mask)

    def _window(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        rng: np.random.Generator,
        crop: tuple[int, int] | None,
        aim: ClassCrops | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scale, rotation and crop."""
        degrees = 0.0
        if self.rotation and rng.random() < self.rotation_share:
            degrees = float(rng.uniform(-self.rotation, self.rotation))
        size = crop or (mask.shape[0], mask.shape[1])
        if self.scale is not None or crop is not None:
            factor = 1.0 if self.scale is None else float(np.exp(rng.uniform(*np.log(self.scale))))
            wide = size
            if degrees:  # no wider than the picture, or empty borders would take its place
                there = [max(s, round(n * factor)) for s, n in zip(size, mask.shape, strict=True)]
                wide = tuple(map(min, room_to_rotate(size, degrees), there))
            place = place_of(mask, wide, factor, rng, aim, inner=size)
            image, mask = random_window(image, mask, wide, factor, place)
        return rotate(image, mask, degrees, size) if degrees else (image, mask)

    def _spoil(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Blur, noise and compression, in the order in which a camera adds them."""
        if self.blur and rng.random() < self.spoilt:
            image = blur(image, float(rng.uniform(0.2, 1.0)) * self.blur)
        if self.noise and rng.random() < self.spoilt:
            image = noise(image, float(rng.uniform(0.2, 1.0)) * self.noise, rng)
        if self.jpeg is not None and rng.random() < self.spoilt:
            image = compress(image, int(rng.integers(self.jpeg, 96)))
        return image


OWN = "own: "
"""What the name of the user's own augmentation begins with, in a stored configuration."""

PRESETS: dict[str, Augment] = {
    "none": Augment(),
    "light": Augment(horizontal_flip=0.5),
    "medium": Augment(horizontal_flip=0.5, scale=(0.75, 1.5), brightness=0.2, contrast=0.2, saturation=0.2),
    "strong": Augment(
        horizontal_flip=0.5,
        vertical_flip=0.5,
        scale=(0.5, 2.0),
        rotation=15.0,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        blur=1.5,
        noise=10.0,
        jpeg=40,
    ),
    # no up or down, and no colour that tells: grey levels and their noise differ between devices
    "medical": Augment(
        horizontal_flip=0.5,
        vertical_flip=0.5,
        quarter_turns=True,
        scale=(0.75, 1.5),
        rotation=15.0,
        brightness=0.2,
        contrast=0.3,
        blur=1.0,
        noise=8.0,
    ),
    # seen from above: every direction is as good, the scale hardly changes, light and haze do
    "aerial": Augment(
        horizontal_flip=0.5,
        vertical_flip=0.5,
        quarter_turns=True,
        scale=(0.8, 1.25),
        rotation=15.0,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        jpeg=50,
    ),
}
"""Name -> recipe. "light" and "medium" are general; "strong" adds rotation and spoilt pictures."""


def resolve_augment(augment: Any) -> Augmentation:
    """A preset by name; a callable (image, mask, rng) -> (image, mask); or a torchvision v2 transform.

    A v2 transform is called as ``transform(tv_tensors.Image, tv_tensors.Mask)`` with torch's generator of
    the CPU seeded from ``rng`` (and left as it was found). The mask is int16 (H, W) with -1 where ignored:
    what a transform fills in beside the picture should be -1 there too (``fill={tv_tensors.Mask: -1, ...}``).
    """
    if _is_transform(augment):
        return TorchvisionTransform(augment)
    if callable(augment):
        return augment
    if augment not in PRESETS:
        raise unknown_name("augment", augment, PRESETS)
    return PRESETS[augment]


@dataclass(frozen=True)
class TorchvisionTransform:
    """A torchvision.transforms.v2 transform as an augmentation of arrays."""

    transform: Any

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change image (H, W, 3) uint8 and mask (H, W) int16 together.

        Raises
        ------
        ConfigError
            The transform does not answer with a uint8 picture and a mask of its size.
        """
        import torch

        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))  # the CPU's alone
            found = self.transform(*as_tensors(image, mask))
        right = isinstance(found, tuple | list) and len(found) == 2
        if not right or found[0].dtype != torch.uint8 or found[0].shape[-2:] != found[1].shape[-2:]:
            raise ConfigError(
                f"augment={self.transform!r} must answer with a uint8 picture and a mask of its size: "
                "leave out ToDtype and Normalize, they are done afterwards."
            )
        return as_arrays(*found)


def check_answer(answer: Any, largest: tuple[int, ...], n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """What the user's own function answered: image (h, w, 3) uint8 and mask (h, w) int16.

    Raises
    ------
    ConfigError
        It is something else, or larger than ``largest`` (h, w), or the mask holds what is no class.
    """
    whole = isinstance(answer, tuple | list) and len(answer) == 2
    found = [np.asarray(part) for part in answer] if whole else []
    if len(found) == 2 and found[0].dtype == np.uint8 and found[1].dtype.kind in "iu":
        image, mask = found
        fits = mask.ndim == 2 and all(new <= old for new, old in zip(mask.shape, largest, strict=True))
        if fits and min(mask.shape) > 0 and image.shape == (*mask.shape, 3):
            _check_classes(mask, n_classes)
            return image, mask.astype(np.int16, copy=False)
    told = ", ".join(f"{part.shape} {part.dtype}" for part in found) or f"a {type(answer).__name__}"
    raise ConfigError(
        "The function given as augment must answer with an image (h, w, 3) uint8 and its mask (h, w) of "
        f"integers, no larger than {largest[0]} x {largest[1]} here; it answered with {told}."
    )


def _is_transform(augment: Any) -> bool:
    return any(c.__module__.startswith("torchvision.transforms.v2") for c in type(augment).__mro__)


def jitter(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, then contrast around the mean grey, then saturation, as one colour matrix.

    Parameters
    ----------
    image : (H, W, 3) uint8
    brightness, contrast, saturation : factors, 1 = unchanged

    Returns
    -------
    array, (H, W, 3) uint8, clipped once at the end (torchvision clips after each step)
    """
    grey = brightness * float(image.reshape(-1, 3)[::7].mean(0) @ _LUMA)  # (H, W, 3) -> (H*W, 3), every 7th
    mix = saturation * np.eye(3) + (1.0 - saturation) * _LUMA  # rows: output channels
    matrix = np.column_stack((brightness * contrast * mix, np.full(3, (1.0 - contrast) * grey)))
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.convert("RGB", tuple(matrix.reshape(-1).tolist())))  # (3, 4) -> (12,)


def random_window(
    image: np.ndarray, mask: np.ndarray, size: tuple[int, ...], factor: float, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A window of ``size`` (h, w) out of the picture scaled by ``factor``, at a random place.

    Where the scaled picture is smaller than the window, it lies at a random place on the mean colour
    and the mask around it is IGNORE. ``place``: two numbers in 0..1 (rows, columns).
    """
    if mask.shape == tuple(size) and factor == 1.0:
        return image, mask
    spans = [_span(old, new, factor, p) for old, new, p in zip(mask.shape, size, place, strict=True)]
    (y, h, top, height), (x, w, left, width) = spans
    if (h, w) == (height, width) == tuple(size):  # nothing to resize or to fill
        return image[y : y + h, x : x + w], mask[y : y + h, x : x + w]
    window = Image.fromarray(np.ascontiguousarray(image[y : y + h, x : x + w]))
    if (h, w) != (height, width):
        window = window.resize((width, height), Image.Resampling.BILINEAR)
    rows, columns = y + nearest_index(h, height), x + nearest_index(w, width)
    labels = mask[rows[:, None], columns]  # (height, 1) x (width,) -> (height, width)
    if (height, width) == tuple(size):
        return np.asarray(window), labels
    canvas = Image.new("RGB", (size[1], size[0]), FILL)
    canvas.paste(window, (left, top))
    out = np.full(size, IGNORE, mask.dtype)
    out[top : top + height, left : left + width] = labels
    return np.asarray(canvas), out


def _span(old: int, new: int, factor: float, place: float) -> tuple[int, int, int, int]:
    """Along one axis: source start and length, target start and length."""
    length = max(1, round(new / factor))
    if length <= old:
        return int(place * (old - length + 1)), length, 0, new
    target = min(new, max(1, round(old * factor)))
    return 0, old, int(place * (new - target + 1)), target


def _check_classes(mask: np.ndarray, n_classes: int) -> None:
    low, high = int(mask.min()), int(mask.max())
    if low < -1 or high >= n_classes:
        wrong = low if low < -1 else high
        raise ConfigError(
            f"The function given as augment answered with a mask that holds {wrong}: masks hold the classes "
            f"0 to {n_classes - 1}, and -1 where pixels are ignored (which uint8 can't hold: it becomes 255)."
        )
