"""Metrics as pure functions of a (K, K) confusion matrix, rows = truth, columns = prediction.

A class that neither truth nor prediction shows is NaN per class and left out of means; a mean over
nothing is NaN. Everything here is dataset-level: counts are added over pictures before dividing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def per_class_iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, (K,) in 0..1 (Jaccard index)."""
    hits = np.diagonal(matrix)
    return _ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def per_class_dice(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Dice coefficient (F1 score) of each class, (K,) in 0..1."""
    return _ratio(2 * np.diagonal(matrix), matrix.sum(0) + matrix.sum(1))


def per_class_recall(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's true pixels that are found, (K,); NaN for classes without true pixels."""
    return _ratio(np.diagonal(matrix), matrix.sum(1))


def per_class_precision(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the pixels predicted as a class that are right, (K,); NaN for classes never predicted."""
    return _ratio(np.diagonal(matrix), matrix.sum(0))


def mean_iou(matrix: NDArray[np.int64]) -> float:
    """Mean of :func:`per_class_iou` over the classes that truth or prediction shows."""
    return mean_of_known(per_class_iou(matrix))


def mean_dice(matrix: NDArray[np.int64]) -> float:
    """Mean of :func:`per_class_dice` over the classes that truth or prediction shows."""
    return mean_of_known(per_class_dice(matrix))


def binary_iou(matrix: NDArray[np.int64]) -> float:
    """IoU of the foreground, class 1 of a (2, 2) matrix; NaN without foreground anywhere."""
    return float(per_class_iou(matrix)[1])


def binary_dice(matrix: NDArray[np.int64]) -> float:
    """Dice of the foreground, class 1 of a (2, 2) matrix; NaN without foreground anywhere."""
    return float(per_class_dice(matrix)[1])


def dice(matrix: NDArray[np.int64], *, binary: bool) -> float:
    """Dice as reported: the foreground's for binary problems, else the mean over shown classes."""
    return binary_dice(matrix) if binary else mean_dice(matrix)


def pixel_accuracy(matrix: NDArray[np.int64]) -> float:
    """Share of pixels with the right class; NaN without pixels."""
    total = int(matrix.sum())
    return float(np.trace(matrix) / total) if total else float("nan")


def ber(matrix: NDArray[np.int64]) -> float:
    """Balanced error rate, 1 - mean recall over classes with true pixels, in 0..1 (0 is perfect).

    The binary form is 1 - (TPR + TNR) / 2. Much of the shadow-detection literature prints it
    times 100.
    """
    return 1.0 - mean_of_known(per_class_recall(matrix))


def kappa(matrix: NDArray[np.int64]) -> float:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e), at most 1 (0: no better than chance).

    p_o is the share of right pixels, p_e the share that two independent raters with these class
    frequencies would have (Cohen, Educational and Psychological Measurement, 1960). NaN without
    pixels, and where truth and prediction are one and the same class everywhere.
    """
    shares = matrix / max(int(matrix.sum()), 1)
    chance = float(shares.sum(0) @ shares.sum(1))
    if not matrix.any() or np.count_nonzero(matrix.sum(0) + matrix.sum(1)) == 1:
        return float("nan")
    return (float(np.trace(shares)) - chance) / (1 - chance)


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Mean without the NaN entries; NaN (and no warning) if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(top: NDArray, bottom: NDArray) -> NDArray[np.float64]:
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result
