"""Where a training crop lies: anywhere, or around a pixel of a class, rare classes more often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ClassCrops:
    """A share of the crops holds a pixel of a class that is drawn by its weight.

    After Isensee et al., nnU-Net (Nature Methods 2021), who lay a third of the patches around a class
    drawn evenly among the foreground's of a picture; here any class of the picture may be drawn, by
    ``weights``. A picture that shows one class only is cropped anywhere.

    Attributes
    ----------
    share : 0..1
    weights : K positive numbers, such as the roots of the classes' inverse frequencies
    """

    share: float
    weights: tuple[float, ...]

    def pixel(self, mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
        """(row, column) of a pixel that the crop shall hold; None: it may lie anywhere.

        ``mask``: (H, W) int16 class indices, negative where ignored.
        """
        if rng.random() >= self.share:
            return None
        flat = mask.ravel()  # (H, W) -> (H*W,)
        counts = np.bincount(flat[flat >= 0], minlength=len(self.weights))
        odds = np.where(counts > 0, self.weights, 0.0)
        if np.count_nonzero(odds) < 2:
            return None
        chosen = rng.choice(len(odds), p=odds / odds.sum())
        nth = rng.integers(counts[chosen])
        row, column = divmod(int(np.flatnonzero(flat == chosen)[nth]), mask.shape[1])
        return row, column


def place_of(
    mask: np.ndarray,
    size: tuple[int, ...],
    factor: float,
    rng: np.random.Generator,
    aim: ClassCrops | None = None,
    inner: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Two numbers in 0..1 for ``augment.random_window``: how far down and right the window lies.

    Parameters
    ----------
    mask : (H, W) int16, of the picture that is cut
    size : (h, w) of the window, in pixels of the picture scaled by ``factor``
    aim : None: anywhere
    inner : size of the window's middle that is kept in the end and shall hold the pixel; None: all of it.
        Where the window is stopped by the picture's end, the pixel may lie outside of it.
    """
    place = rng.random(2)
    pixel = None if aim is None else aim.pixel(mask, rng)
    if pixel is None:
        return place
    for axis in range(2):
        length = max(1, round(size[axis] / factor))
        kept = length if inner is None else min(length, max(1, round(inner[axis] / factor)))
        starts = mask.shape[axis] - length + 1
        if starts > 1:  # the pixel lies anywhere in the window, but for the picture's ends
            first = pixel[axis] - (length - kept) // 2 - int(place[axis] * kept)
            first = min(max(0, first), starts - 1)
            place[axis] = (first + 0.5) / starts
    return place
