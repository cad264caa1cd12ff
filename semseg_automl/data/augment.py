"""Random flips, scale and colour for picture and mask together: numpy and Pillow, a few ms a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from semseg_automl.core.errors import unknown_name
from semseg_automl.data.label_map import IGNORE
from semseg_automl.data.preprocess import MEAN, nearest_index

Augmentation = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's and torchvision's grey
_FILL = tuple(round(m) for m in MEAN)  # about 0 after normalisation


@dataclass(frozen=True, kw_only=True)
class Augment:
    """A recipe; calling it returns new arrays of the same shapes and dtypes.

    Attributes
    ----------
    horizontal_flip, vertical_flip : probability
    scale : (low, high) or None
        Factor, log-uniform. Above 1 a random window is enlarged to the whole; below 1 the picture
        shrinks to a random place on the mean colour, where the mask is IGNORE.
    brightness, contrast, saturation : float
        Factors drawn from 1 - x .. 1 + x. Contrast turns around the picture's mean grey.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    scale: tuple[float, float] | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        rng: np.random.Generator,
        crop: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment image (H, W, 3) uint8 and mask (H, W) int16; all randomness comes from ``rng``.

        ``crop``: size (h, w) of the answer, a random window of the rescaled picture; None keeps (H, W).
        """
        if rng.random() < self.horizontal_flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if rng.random() < self.vertical_flip:
            image, mask = image[::-1], mask[::-1]
        if self.scale is not None or crop is not None:
            factor = 1.0 if self.scale is None else float(np.exp(rng.uniform(*np.log(self.scale))))
            image, mask = random_window(image, mask, crop or mask.shape, factor, rng.random(2))
        if self.brightness or self.contrast or self.saturation:
            spread = np.array([self.brightness, self.contrast, self.saturation])
            image = jitter(image, *(1.0 + spread * rng.uniform(-1.0, 1.0, 3)))
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)


PRESETS: dict[str, Augment] = {
    "none": Augment(),
    "light": Augment(horizontal_flip=0.5),
    "medium": Augment(horizontal_flip=0.5, scale=(0.75, 1.5), brightness=0.2, contrast=0.2, saturation=0.2),
    "strong": Augment(
        horizontal_flip=0.5, vertical_flip=0.5, scale=(0.5, 2.0), brightness=0.4, contrast=0.4, saturation=0.4
    ),
}


def resolve_augment(augment: str | Augmentation) -> Augmentation:
    """A preset by name, or a callable (image, mask, rng) -> (image, mask) as it is."""
    if callable(augment):
        return augment
    if augment not in PRESETS:
        raise unknown_name("augment", augment, PRESETS)
    return PRESETS[augment]


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
    window = Image.fromarray(np.ascontiguousarray(image[y : y + h, x : x + w]))
    if (h, w) != (height, width):
        window = window.resize((width, height), Image.Resampling.BILINEAR)
    rows, columns = y + nearest_index(h, height), x + nearest_index(w, width)
    labels = mask[rows[:, None], columns]  # (height, 1) x (width,) -> (height, width)
    if (height, width) == tuple(size):
        return np.asarray(window), labels
    canvas = Image.new("RGB", (size[1], size[0]), _FILL)
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
