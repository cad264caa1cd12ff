"""Percentile bootstrap over pictures (Efron and Tibshirani, An Introduction to the Bootstrap, 1993)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError


def check_level(level: float) -> float:
    """Return a confidence level, or raise ConfigError if it is not a number between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, such as 0.95, got {level!r}.")
    return float(level)


def draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield, ``resamples`` times, how often each of ``n`` pictures was drawn: (n,) counts that sum to n."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, n, n), minlength=n)


def weighted_mean(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Mean of (n,) values, each ``counts`` times, without NaN entries; NaN if nothing is left."""
    known = counts * ~np.isnan(values)
    total = int(known.sum())
    return float(np.nansum(values * known) / total) if total else float("nan")


def interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The central ``level`` of (R,) resampled values, NaN left out; (NaN, NaN) if nothing is left."""
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
