"""Which weights of a run are kept: the latest that are as good on validation as can be told.

The largest of a dozen scores on a few pictures is often luck, and of an early, half-trained state. So a
later state replaces an earlier one unless it is worse by more than the noise of the comparison: one
standard error of the difference between the two, picture by picture (the one-standard-error rule of
Breiman et al., "Classification and Regression Trees", 1984, which prefers the simpler of the models that
can't be told apart; here it prefers the one whose learning rate has fallen further).
"""

from __future__ import annotations

import math

import numpy as np

from semseg_automl.training.validate import Validation


def standard_error(first: Validation, second: Validation) -> float:
    """Standard error of the mean difference between two validations' scores of the same pictures.

    Pictures where either is NaN are left out; 0 for fewer than two, and where the number of pictures
    differs.
    """
    if len(first.per_image) != len(second.per_image):
        return 0.0
    differences = np.subtract(first.per_image, second.per_image, dtype=np.float64)
    differences = differences[~np.isnan(differences)]
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
    followed step by step.
    """
    if peak is None or is_higher(new, peak):
        return True
    comparable = new.complete and peak.complete and not math.isnan(new.score)
    return comparable and peak.score - new.score <= standard_error(new, peak)


def _rank(found: Validation) -> tuple[bool, bool, float]:
    defined = not math.isnan(found.score)
    return defined, found.complete, found.score if defined else 0.0
