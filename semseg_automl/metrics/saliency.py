"""Metrics of one picture's foreground probabilities, as salient and camouflaged object detection use them.

All take ``probability`` (H, W), floats in 0..1 (NaN only where ignored), and ``target`` (H, W), 1
foreground, 0 background, IGNORE = -1 left out, and return a float in 0..1, higher is better, NaN
without a valid pixel. They raise DataError for differing sizes and for probabilities out of range.
Unlike the published evaluation codes, none stretches a picture's probabilities to 0..1 beforehand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semseg_automl.metrics.confusion import IGNORE
from semseg_automl.metrics.probability import valid_pixels

BETA_SQUARED = 0.3
"""Weight of precision in :func:`f_measure`, as in Achanta et al."""

_EPS = float(np.finfo(np.float64).eps)
_LEVELS = 256


def s_measure(probability: NDArray, target: NDArray) -> float:
    """Structure measure, the mean of object and region similarity (alpha = 0.5).

    Fan et al., Structure-measure: A New Way to Evaluate Foreground Maps, ICCV 2017, eq. 1 to 9, with
    lambda = 0.5; quadrants as in the authors' code (the centroid's row and column belong to the
    upper and left ones). Empty truth: 1 - mean probability; nothing but foreground: mean probability.
    Ignored pixels are left out of all means and of the quadrants' areas; a quadrant without valid
    pixels has no weight.
    """
    p, truth, valid = _checked(probability, target)
    if not valid.any():
        return float("nan")
    share = float(truth[valid].mean())
    if share in (0.0, 1.0):
        mean = float(p[valid].mean())
        return mean if share else 1 - mean
    objects = share * _object(p[truth]) + (1 - share) * _object(1 - p[valid & ~truth])
    return max(0.0, 0.5 * objects + 0.5 * _regions(p, truth, valid))


def e_measure(probability: NDArray, target: NDArray) -> float:
    """Mean enhanced-alignment measure: the mean over 256 thresholds 0/255, 1/255, ..., 255/255.

    Fan et al., Enhanced-alignment Measure for Binary Foreground Map Evaluation, IJCAI 2018, eq. 2 to 5.
    This is what tables call mean E or mE, not the maximal or adaptive one. Divided by the number of
    pixels n as in eq. 5 (the authors' code divides by n - 1). Empty truth: mean share of pixels below
    the thresholds; nothing but foreground: mean share at or above them.
    """
    p, truth = valid_pixels(probability, target)  # (N,) each
    n = truth.size
    if not n:
        return float("nan")
    levels = (p.astype(np.float64) * (_LEVELS - 1)).astype(np.int64)
    hits, alarms = (  # (256,): foreground pixels inside and outside the true foreground
        np.bincount(levels[where], minlength=_LEVELS)[::-1].cumsum() for where in (truth, ~truth)
    )
    positive = int(truth.sum())
    found = hits + alarms
    if positive in (0, n):
        return float(((found if positive else n - found) / n).mean())
    counts = np.stack([hits, alarms, positive - hits, n - positive - alarms])  # (4, 256)
    guess = np.stack([1 - found / n, 1 - found / n, -found / n, -found / n])
    real = np.array([1.0, 0.0, 1.0, 0.0])[:, None] - positive / n  # (4, 1)
    aligned = 2 * guess * real / (guess**2 + real**2 + _EPS)
    return float(((aligned + 1) ** 2 / 4 * counts).sum(0).mean() / n)


def f_measure(probability: NDArray, target: NDArray) -> float:
    """F-measure (beta^2 = 0.3) at the picture's adaptive threshold.

    Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009: the threshold is twice the
    picture's mean probability, at most 1; not the maximum over thresholds. No foreground in truth: 0,
    or NaN where all probabilities are 0. Probabilities that are all 0 predict no foreground: 0 (the
    threshold 0 would call every pixel foreground, as published codes do).
    """
    p, truth = valid_pixels(probability, target)  # (N,) each
    p = p.astype(np.float64)
    if not p.size or not p.any():
        return 0.0 if truth.any() else float("nan")
    guess = p >= min(2 * p.mean(), 1.0)
    hits = int((guess & truth).sum())
    if not hits:
        return 0.0
    precision, recall = hits / int(guess.sum()), hits / int(truth.sum())
    return (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)


def weighted_f_measure(probability: NDArray, target: NDArray) -> float:
    """Weighted F-measure with beta = 1: errors weigh by where they lie.

    Margolin et al., How to Evaluate Foreground Maps?, CVPR 2014, eq. 3 to 11: Gaussian of 7 x 7 pixels
    and sigma 5, half-value distance of 5 pixels. Empty truth: 0, or NaN where all probabilities are
    0. Ignored pixels count like pixels outside the picture. Where several foreground pixels are
    equally near to a background pixel, the distance transform picks one.
    """
    p, truth, valid = _checked(probability, target)
    if not truth.any():
        return 0.0 if p.any() else float("nan")
    error = np.where(valid, np.abs(p - truth), 0.0)
    distance, nearest = ndimage.distance_transform_edt(~truth, return_indices=True)
    spread = np.where(valid, error[tuple(nearest)], 0.0)  # background: the error of the nearest foreground
    blurred = ndimage.convolve(spread, _gaussian(7, 5.0), mode="constant", cval=0.0)
    least = np.where(truth, np.minimum(error, blurred), error)
    weighted = least * np.where(truth, 1.0, 2 - np.exp(np.log(0.5) / 5 * distance))
    missed, alarms = float(weighted[truth].sum()), float(weighted[valid & ~truth].sum())
    positive = int(truth.sum())
    recall = 1 - missed / positive
    precision = (positive - missed) / (positive - missed + alarms + _EPS)
    return 2 * recall * precision / (recall + precision + _EPS)


def _checked(probability: NDArray, target: NDArray) -> tuple[NDArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Probabilities with 0 where ignored, true foreground and valid pixels, all (H, W)."""
    inside, _ = valid_pixels(probability, target)
    valid = target != IGNORE
    p = np.zeros(target.shape)
    p[valid] = inside
    return p, target == 1, valid


def _object(values: NDArray) -> float:
    """Similarity of one part (eq. 4) from its probabilities (N,), N >= 1."""
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _EPS)


def _regions(p: NDArray, truth: NDArray, valid: NDArray) -> float:
    """Structural similarity of the four quadrants around the foreground's centroid, weighted by area."""
    row, column = (int(c) + 1 for c in np.argwhere(truth).mean(0).round())
    total = 0.0
    for rows in (slice(row), slice(row, None)):
        for columns in (slice(column), slice(column, None)):
            inside = valid[rows, columns]
            if inside.any():
                total += inside.sum() * _ssim(p[rows, columns][inside], truth[rows, columns][inside])
    return total / float(valid.sum())


def _ssim(x: NDArray, y: NDArray) -> float:
    """Similarity of means and variances (eq. 8) of (N,) probabilities and truth, N >= 1."""
    mean_x, mean_y, n = float(x.mean()), float(y.mean()), x.size - 1 + _EPS
    dx, dy = x - mean_x, y - mean_y
    top = 4 * mean_x * mean_y * float(dx @ dy) / n
    bottom = (mean_x**2 + mean_y**2) * float(dx @ dx + dy @ dy) / n
    if top == 0:
        return 1.0 if bottom == 0 else 0.0
    return top / (bottom + _EPS)


def _gaussian(size: int, sigma: float) -> NDArray[np.float64]:
    """(size, size) weights that sum to 1."""
    line = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    grid = np.outer(line, line)
    return grid / grid.sum()
