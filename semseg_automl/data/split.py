"""Train/validation split of one table: every class on both sides where it can be, groups are never cut."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import Samples
from semseg_automl.data.masks import LabelScan

_log = get_logger("data")
_FRACTION = 0.15
_MOST = 200


def check_fraction(holdout_frac: object) -> None:
    """Raise ConfigError unless it is None or a number between 0 and 1."""
    number = isinstance(holdout_frac, Real) and not isinstance(holdout_frac, bool)
    if holdout_frac is not None and not (number and 0.0 < float(holdout_frac) < 1.0):  # type: ignore[arg-type]
        raise ConfigError(f"holdout_frac (--holdout-frac) lies between 0 and 1, got {holdout_frac!r}.")


def split_samples(
    samples: Samples,
    scan_or_presence: LabelScan | np.ndarray,
    *,
    holdout_frac: float | None = None,
    groups: Any = None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose validation pictures.

    First every class gets a validation picture, the rarest class first, by the picture that shows
    the most classes without one; where that takes more pictures than ``holdout_frac`` says,
    validation is larger, by up to half of the table. Then classes are dealt with from the rarest to
    the commonest (iterative stratification, Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011,
    simplified): each gets about its share of validation pictures. A class that occurs in one picture
    (or group) only stays in training, and no class loses more than half of its pictures while
    another choice exists.

    Parameters
    ----------
    samples : Samples, N rows
    scan_or_presence : LabelScan, or (N, K) bool from ``labels.presence``
    holdout_frac : float in (0, 1), optional
        Share of validation; None: 15 %, at most 200 pictures. At least one picture either way, and
        more where the classes need it.
    groups : array-like of N labels, optional
        Rows of equal label stay on one side (video, patient, field, ...).
    seed : int
        Same arguments and seed, same split.

    Returns
    -------
    train, validation : int64 arrays of positions, ascending
        Disjoint and complete, except that where there is one picture (or one group) only, both
        sides are all of it, with a warning.

    Raises
    ------
    ConfigError, DataError
        ``holdout_frac`` out of range; ``groups`` of another length or with empty cells.
    """
    n = len(samples)
    check_fraction(holdout_frac)
    fraction = _FRACTION if holdout_frac is None else float(holdout_frac)
    wanted = int(np.clip(round(fraction * n), 1, max(1, n - 1)))
    if holdout_frac is None:
        wanted = min(wanted, _MOST)
    unit_of, n_units = _units(groups, n)
    if n_units == 1:
        what = "picture" if n == 1 else "group"
        _log.warning(
            "One %s only: it is used for training and for validation; scores flatter the model.", what
        )
        return np.arange(n), np.arange(n)
    chosen = _choose(unit_of, n_units, _presence(scan_or_presence, n), wanted, np.random.default_rng(seed))
    held = chosen[unit_of]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _units(groups: Any, n: int) -> tuple[np.ndarray, int]:
    """Unit number per picture: its group, or itself."""
    if groups is None:
        return np.arange(n), n
    labels = np.asarray(groups, dtype=object).reshape(-1)
    if len(labels) != n:
        raise DataError(f"groups has {len(labels)} labels for {n} pictures.")
    units, names = pd.factorize(labels)  # -1 where a cell is empty
    empty = np.flatnonzero(units < 0)
    if empty.size:
        raise DataError(f"groups has {empty.size} empty cells, the first at position {empty[0]}.")
    return units, len(names)


def _presence(scan_or_presence: LabelScan | np.ndarray, n: int) -> np.ndarray:
    if isinstance(scan_or_presence, LabelScan):
        found = scan_or_presence.counts(scan_or_presence.values) > 0
    else:
        found = np.asarray(scan_or_presence, bool)
    if found.shape[0] != n:
        raise DataError(f"The scan has {found.shape[0]} masks for {n} pictures.")
    return found


def _choose(
    unit_of: np.ndarray, n_units: int, found: np.ndarray, wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """Bool per unit: goes to validation."""
    side = _Validation(unit_of, n_units, found, rng)
    half = (side.total + 1) // 2
    for room in (wanted, max(wanted, len(unit_of) // 2)):
        side.cover(half, room)
    for k in side.rarest:
        share = max(1, round(wanted / len(unit_of) * side.total[k]))
        for unit in side.units_with(k):
            if side.held[k] >= share or side.size >= wanted:
                break
            side.take(int(unit), half, wanted)
    for kept in (half, np.minimum(side.total, 1), np.zeros_like(half)):  # fill up, from strict to any
        if kept.any() or not side.chosen.any():
            for unit in side.order:
                side.take(int(unit), kept, wanted)
    if not side.chosen.any():  # every group is larger than wanted
        side.chosen[min(side.order, key=lambda u: side.sizes[u])] = True
    return side.chosen


class _Validation:
    """The units that went to validation, and what is there of each class."""

    def __init__(
        self, unit_of: np.ndarray, n_units: int, found: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.sizes = np.bincount(unit_of, minlength=n_units)
        self.counts = np.zeros((n_units, found.shape[1]), np.int64)  # pictures per unit and class
        np.add.at(self.counts, unit_of, found.astype(np.int64))
        self.total = self.counts.sum(0)
        self.order = rng.permutation(n_units)
        self.rarest = [k for k in np.argsort(self.total, kind="stable") if self.total[k]]
        self.chosen = np.zeros(n_units, bool)
        self.held = np.zeros_like(self.total)
        self.size = 0

    def units_with(self, k: int) -> np.ndarray:
        """Units that show class k, in the random order."""
        return self.order[self.counts[self.order, k] > 0]

    def take(self, unit: int, kept: np.ndarray, room: int) -> bool:
        """Move a unit to validation if that stays within ``room`` and its classes keep enough pictures."""
        after, touched = self.held + self.counts[unit], self.counts[unit] > 0
        size = self.size + int(self.sizes[unit])
        if self.chosen[unit] or size > room or (self.total - after < kept)[touched].any():
            return False
        self.chosen[unit], self.held, self.size = True, after, size
        return True

    def cover(self, kept: np.ndarray, room: int) -> None:
        """Give each class that validation lacks a unit, one that shows most of those classes."""
        for k in self.rarest:
            if self.held[k] or self.size >= room:
                continue
            units = self.units_with(k)
            gains = (self.counts[units][:, self.held == 0] > 0).sum(1)
            for unit in units[np.argsort(-gains, kind="stable")]:
                if self.take(int(unit), kept, room):
                    break
