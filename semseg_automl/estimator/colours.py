"""Colours of classes that colour-blind readers can tell apart."""

from __future__ import annotations

import numpy as np

# Okabe and Ito, "Color Universal Design", 2008: told apart by colour-blind readers
PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (153, 153, 153),
        (102, 51, 0),
        (255, 255, 255),
        (128, 0, 128),
    ],
    np.uint8,
)
IGNORED = (190, 190, 190)
"""Grey of pixels that are no class."""


def class_colours(n_classes: int) -> np.ndarray:
    """(K, 3) uint8 colours; beyond its length the palette repeats darker, without its black."""
    repeats, at = np.divmod(np.arange(n_classes) - 1, len(PALETTE) - 1)
    colours = PALETTE[1 + at] / (1 + repeats[:, None].clip(0))
    colours[:1] = PALETTE[0]
    return colours.astype(np.uint8)


def colour_mask(indices: np.ndarray, n_classes: int) -> np.ndarray:
    """(H, W) class indices -> (H, W, 3) uint8; what is outside of 0..K-1 (ignored) is grey."""
    table = np.concatenate([class_colours(n_classes), [IGNORED]]).astype(np.uint8)
    known = (indices >= 0) & (indices < n_classes)
    return table[np.where(known, indices, n_classes)]
