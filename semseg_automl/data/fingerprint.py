"""What the tables tell: how large the pictures are, and how thin the thinnest class is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semseg_automl.data.images import parallel
from semseg_automl.data.label_map import LabelMap
from semseg_automl.data.labels import read_mask
from semseg_automl.data.masks import MaskSource

SAMPLE = 32


@dataclass(frozen=True, kw_only=True)
class PictureSizes:
    """How large a table's pictures are: (H, W) of the one with the median long side; the longest side."""

    median: tuple[int, int]
    longest: int

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> PictureSizes:
        """From the (H, W) of every picture, at least one."""
        ordered = sorted(sizes, key=lambda size: (max(size), size))
        height, width = ordered[(len(ordered) - 1) // 2]
        return cls(median=(int(height), int(width)), longest=int(max(ordered[-1])))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict, for a stored model's ``info``."""
        return {"median": list(self.median), "longest": self.longest}

    @classmethod
    def from_json(cls, values: Any) -> PictureSizes | None:
        """Inverse of :meth:`to_json`; None for models that were stored without it."""
        if not isinstance(values, Mapping):
            return None
        median, longest = values.get("median"), values.get("longest")
        numbers = [*median, longest] if isinstance(median, list | tuple) else []
        if len(numbers) != 3 or not all(type(n) is int and n >= 1 for n in numbers):
            return None
        return cls(median=(numbers[0], numbers[1]), longest=numbers[2])


def thickness(indices: np.ndarray, n_classes: int) -> np.ndarray:
    """Areas and border lengths of the classes in one mask.

    Parameters
    ----------
    indices : (H, W) int16 class indices, IGNORE = -1

    Returns
    -------
    (K, 2) int64: pixels of class k, and pairs of neighbouring pixels of which one is of class k
    """
    shifted = indices.astype(np.int64) + 1  # IGNORE becomes 0
    area = np.bincount(shifted.ravel(), minlength=n_classes + 1)
    border = np.zeros(n_classes + 1, np.int64)
    for a, b in ((shifted[1:], shifted[:-1]), (shifted[:, 1:], shifted[:, :-1])):
        differ = a != b
        border += np.bincount(a[differ], minlength=n_classes + 1)
        border += np.bincount(b[differ], minlength=n_classes + 1)
    return np.stack([area, border], axis=1)[1:]


def _sample(masks: Sequence[MaskSource], label_map: LabelMap) -> list[np.ndarray]:
    """Class indices of up to 32 masks, evenly spread over the table."""
    step = max(1, len(masks) // SAMPLE)
    return parallel(lambda source: read_mask(source, label_map), list(masks)[::step][:SAMPLE])


def class_pixels(masks: Sequence[MaskSource], label_map: LabelMap) -> tuple[int, ...]:
    """Labelled pixels of each class, counted over up to 32 masks, evenly spread over the table."""
    read = _sample(masks, label_map)
    counts = sum(np.bincount(m[m >= 0].ravel(), minlength=label_map.n_classes) for m in read)
    return tuple(int(n) for n in np.asarray(counts))


def thinnest_class(masks: Sequence[MaskSource], label_map: LabelMap) -> float:
    """Mean thickness of the thinnest class, as a share of the pictures' long side.

    The thickness of a class is 2 * area / border length: the width of a long stripe, half the side
    of a square. Counted over up to 32 masks, evenly spread over the table. A table of empty or
    one-class masks has no border and answers 1.0.
    """
    read = _sample(masks, label_map)
    counts = sum(thickness(m, label_map.n_classes) for m in read)
    side = float(np.mean([max(m.shape) for m in read]))
    area, border = np.asarray(counts).T
    seen = (border > 0) & (area > 0)
    if not seen.any():
        return 1.0
    return float(np.min(2.0 * area[seen] / border[seen]) / side)
