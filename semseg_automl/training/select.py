"""Which weights of a run are kept: the latest that are as good on validation as can be told.

The largest of a dozen scores on a few pictures is often luck, and of an early, half-trained state. So a
later state replaces an earlier one unless it is worse by more than the noise of the comparison: one
standard error of the difference between the two, picture by picture (the one-standard-error rule of
Breiman et al., "Classification and Regression Trees", 1984, which prefers the simpler of the models that
can't be told apart; here it prefers the one whose learning rate has fallen further).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from semseg_automl.training.validate import Validation

PART = 0.25
"""Share of the validation pictures that is enough to judge weights by, if the clock left no time for all."""


class Scored(Protocol):
    """What has scores of the validation pictures, one each and in their order."""

    @property
    def per_image(self) -> tuple[float, ...]:
        """The scores."""


def standard_error(first: Scored, second: Scored) -> float:
    """Standard error of the mean difference between two validations' scores of the same pictures.

    Pictures where either is NaN are left out; 0 for fewer than two, and where the number of pictures
    differs.
    """
    if len(first.per_image) != len(second.per_image):
        return 0.0
    return _error(_differences(first, second))


def _differences(first: Scored, second: Scored) -> np.ndarray:
    """First minus second, of the pictures that both have a score of; float64 (n,)."""
    both = min(len(first.per_image), len(second.per_image))
    differences = np.subtract(first.per_image[:both], second.per_image[:both], dtype=np.float64)
    return differences[~np.isnan(differences)]


def _error(differences: np.ndarray) -> float:
    if differences.size < 2:
        return 0.0
    return float(differences.std(ddof=1) / math.sqrt(differences.size))


def is_higher(new: Validation, peak: Validation | None) -> bool:
    """Whether ``new`` is the highest so far: defined before NaN, complete before cut short, then by score."""
    return peak is None or _rank(new) >= _rank(peak)


def replaces(new: Validation, peak: Validation | None) -> bool:
    """Whether ``new`` is kept, given the highest validation before it.

    Always where it is the highest itself. Else only where both are complete and defined and it is worse
    by at most one standard error; the comparison is with the peak, so that a slow decline is not
    followed step by step. One that the clock cut short is compared on the pictures that it saw, if these
    are at least ``PART``: it is mostly the last of a run, of the weights that all the training went into.
    """
    if peak is None or is_higher(new, peak):
        return True
    if math.isnan(new.score) or not peak.complete:
        return False
    if not new.complete:
        differences = _differences(new, peak)
        enough = differences.size >= max(2, PART * len(peak.per_image))
        return bool(enough and differences.mean() >= -_error(differences))
    return peak.score - new.score <= standard_error(new, peak)


def _rank(found: Validation) -> tuple[bool, bool, float]:
    defined = not math.isnan(found.score)
    return defined, found.complete, found.score if defined else 0.0
