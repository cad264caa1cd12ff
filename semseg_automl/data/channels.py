"""Random changes made for three channels, applied to pictures of more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def in_threes(
    change: Change, image: np.ndarray, mask: np.ndarray, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Apply a random change to three channels at a time, each time with the same random numbers.

    Geometry and mask are the same for all channels as long as ``change`` takes its chances from the
    generator alone. A last group of one or two channels is filled up with copies of its last one.

    Parameters
    ----------
    change : (image (H, W, 3), mask, rng) -> (image, mask)
    image : (H, W, C) uint8
    mask : (H, W) int16
    seed : of the generator

    Returns
    -------
    (image (h, w, C), mask (h, w))
    """
    parts, out = [], mask
    for first in range(0, image.shape[2], 3):
        part = image[..., first : first + 3]
        count = part.shape[2]
        if count < 3:
            part = np.concatenate([part, np.repeat(part[..., -1:], 3 - count, axis=2)], axis=2)
        changed, out = change(np.ascontiguousarray(part), mask, np.random.default_rng(seed))
        parts.append(changed[..., :count])
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2), out
