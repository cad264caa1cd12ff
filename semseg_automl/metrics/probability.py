"""Metrics of foreground probabilities: the decision threshold and the mean absolute error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError, DataError, unknown_name
from semseg_automl.metrics import functional
from semseg_automl.metrics.confusion import IGNORE

CURVE_METRICS = {
    "iou": (functional.binary_iou, 1.0),
    "dice": (functional.binary_dice, 1.0),
    "mean_iou": (functional.mean_iou, 1.0),
    "pixel_accuracy": (functional.pixel_accuracy, 1.0),
    "ber": (functional.ber, -1.0),
    "kappa": (functional.kappa, 1.0),
}
"""Metrics that choose a threshold: their function of a (2, 2) matrix, and 1 if higher is better, else -1."""

_SLACK = 1e-4
"""How far rounding may carry a probability out of 0..1; beyond that it is an error."""


def valid_pixels(probability: NDArray, target: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """The pixels of one picture that count.

    Parameters
    ----------
    probability
        (H, W) floats in 0..1: foreground probability.
    target
        (H, W) class indices: 1 foreground, 0 background, IGNORE left out.

    Returns
    -------
    Probabilities, clipped to 0..1, and whether the truth is foreground; both (N,).

    Raises
    ------
    DataError
        If sizes differ, or a valid pixel's probability is NaN or outside 0..1.
    """
    if probability.shape != target.shape:
        raise DataError(
            f"Probabilities {probability.shape} and target {target.shape} must have the same size."
        )
    valid = target != IGNORE
    p = probability[valid]  # (H, W) -> (N,)
    if p.size and not (p.min() >= -_SLACK and p.max() <= 1 + _SLACK):  # also catches NaN
        raise DataError(f"Probabilities must lie in 0..1, got {p.min()}..{p.max()}.")
    return p.clip(0, 1), target[valid] == 1


class ThresholdCurve:
    """What every threshold would give, from one histogram of probabilities per true class.

    A pixel is foreground if its probability is at least the threshold. Thresholds lie on the grid
    0, 1 / bins, ..., 1, where every number is exact, not an estimate.

    Parameters
    ----------
    bins
        Steps of the grid. The default is a power of two, so that 0.5 is on the grid and
        ``probability * bins`` has no rounding error.
    """

    def __init__(self, bins: int = 256) -> None:
        if bins < 2:
            raise ConfigError(f"bins must be at least 2, got {bins}.")
        self.bins = bins
        self.counts: NDArray[np.int64] = np.zeros((2, bins + 1), dtype=np.int64)
        """Pixels by truth (0, 1) and by floor(probability * bins)."""
        self.absolute_error = 0.0

    def update(self, probability: NDArray, target: NDArray) -> tuple[float, int]:
        """Add one picture and return its sum of |p - t| and its number of valid pixels.

        Parameters and errors are those of :func:`valid_pixels`.
        """
        p, truth = valid_pixels(probability, target)  # (N,) each
        if not p.size:
            return 0.0, 0
        cells = (p * self.bins).astype(np.int64) + truth * (self.bins + 1)
        counts = np.bincount(cells, minlength=2 * (self.bins + 1))
        self.counts += counts.reshape(2, self.bins + 1)  # (2 * (bins + 1),) -> (2, bins + 1)
        error = float(np.abs(p - truth).sum(dtype=np.float64))
        self.absolute_error += error
        return error, p.size

    def merge(self, other: ThresholdCurve) -> None:
        """Add the counts of another data set on the same grid."""
        if other.bins != self.bins:
            raise ConfigError(f"Can't merge a curve of {other.bins} bins into one of {self.bins}.")
        self.counts += other.counts
        self.absolute_error += other.absolute_error

    def matrix(self, threshold: float) -> NDArray[np.int64]:
        """(2, 2) confusion matrix at the grid threshold nearest to ``threshold``, rows = truth."""
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must lie in 0..1, got {threshold}.")
        cut = round(threshold * self.bins)
        return np.stack([self.counts[:, :cut].sum(1), self.counts[:, cut:].sum(1)], axis=1)

    def iou(self, threshold: float) -> float:
        """Foreground IoU at the grid threshold nearest to ``threshold``; NaN without foreground."""
        return functional.binary_iou(self.matrix(threshold))

    def best_threshold(self, metric: str = "iou") -> tuple[float, float]:
        """Return the threshold in (0, 1) with the best value of a metric, and that value.

        Ties go to the threshold nearest to 0.5, then to the lower one. Without a true foreground
        pixel, or without a pixel at all, the answer is 0.5 with its value (which may be NaN).
        ``metric``: "iou", "dice", "mean_iou", "pixel_accuracy", "kappa" or "ber" (lowest is best).
        """
        if metric not in CURVE_METRICS:
            raise unknown_name("metric for a threshold", metric, CURVE_METRICS)
        compute, sign = CURVE_METRICS[metric]
        if not self.counts[1].sum():
            return 0.5, compute(self.matrix(0.5))
        order = sorted(range(1, self.bins), key=lambda cut: (abs(cut - self.bins / 2), cut))
        values = np.array([sign * compute(self.matrix(cut / self.bins)) for cut in order])
        if np.isnan(values).all():
            return 0.5, float("nan")
        best = int(np.nanargmax(values))  # the first of equals
        return order[best] / self.bins, float(sign * values[best])

    def mae(self) -> float:
        """Mean over valid pixels of |probability - truth|, exact (not from the histogram); NaN if empty."""
        total = int(self.counts.sum())
        return self.absolute_error / total if total else float("nan")
