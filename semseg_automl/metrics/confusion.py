"""Confusion matrices of class-index masks, added up picture by picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError, DataError

IGNORE = -1
"""Class index of pixels that take no part (the same value as in ``data`` and ``losses``)."""


def confusion(pred: NDArray, target: NDArray, n_classes: int) -> NDArray[np.int64]:
    """Count pixels by (true class, predicted class).

    Parameters
    ----------
    pred, target
        Integer (or boolean) arrays of the same shape, class indices 0..n_classes-1; ``target`` may
        hold :data:`IGNORE`, and what ``pred`` says there doesn't matter.
    n_classes
        Number of classes K.

    Returns
    -------
    (K, K) int64; rows are the truth, columns the prediction. All zero for empty input.

    Raises
    ------
    DataError
        If shapes differ or a class index is out of range.
    """
    if pred.shape != target.shape:
        raise DataError(f"Prediction {pred.shape} and target {target.shape} must have the same size.")
    valid = target != IGNORE
    whole = bool(valid.all())  # the common case, without copies of the masks
    truth, guess = (x.ravel() if whole else x[valid] for x in (target, pred))  # (H, W) -> (N,)
    for role, values in (("target", truth), ("prediction", guess)):
        if values.size and (values.min() < 0 or values.max() >= n_classes):
            raise DataError(
                f"The {role} holds class index {int(values.min())}..{int(values.max())}, "
                f"but there are {n_classes} classes: 0..{n_classes - 1} (and {IGNORE} = ignored in targets)."
            )
    pairs = np.multiply(truth, n_classes, dtype=np.int64)
    pairs += guess
    counts = np.bincount(pairs, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)  # (K * K,) -> (K, K)


class ConfusionMatrix:
    """Running confusion matrix of a data set.

    Parameters
    ----------
    n_classes
        Number of classes K, at least 1.

    Attributes
    ----------
    matrix
        (K, K) int64; rows are the truth, columns the prediction.
    """

    def __init__(self, n_classes: int) -> None:
        if n_classes < 1:
            raise ConfigError(f"n_classes must be at least 1, got {n_classes}.")
        self.n_classes = n_classes
        self.matrix: NDArray[np.int64] = np.zeros((n_classes, n_classes), dtype=np.int64)

    def update(self, pred: NDArray, target: NDArray) -> NDArray[np.int64]:
        """Add one picture (see :func:`confusion`) and return its own matrix."""
        added = confusion(pred, target, self.n_classes)
        self.matrix += added
        return added

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another data set with the same classes."""
        if other.n_classes != self.n_classes:
            raise ConfigError(
                f"Can't merge a matrix of {other.n_classes} classes into one of {self.n_classes}."
            )
        self.matrix += other.matrix
