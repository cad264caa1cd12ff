"""Which weights are kept: the one-standard-error rule in favour of the later ones."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from semseg_automl.training.select import is_higher, replaces, standard_error
from semseg_automl.training.validate import Validation


def found(score: float, *per_image: float, complete: bool = True) -> Validation:
    return Validation(
        score=score,
        threshold=0.5,
        metrics={},
        pictures=len(per_image),
        seconds=1.0,
        complete=complete,
        never_predicted=(),
        per_image=per_image,
    )


PEAK = found(0.60, 0.2, 0.9, 0.5, 0.8)


def test_the_noise_is_that_of_the_paired_difference() -> None:
    new = found(0.58, 0.3, 0.7, 0.6, 0.5)
    expected = stats.sem([0.1, -0.2, 0.1, -0.3])
    assert standard_error(new, PEAK) == pytest.approx(expected) == standard_error(PEAK, new)
    shifted = found(0.5, 0.1, 0.8, 0.4, 0.7)  # every picture worse by the same: nothing uncertain about it
    assert standard_error(shifted, PEAK) == pytest.approx(0.0, abs=1e-12)


def test_nan_pictures_are_left_out_and_few_pictures_have_no_noise() -> None:
    new = found(0.58, 0.3, math.nan, 0.6, 0.5)
    assert standard_error(new, PEAK) == pytest.approx(stats.sem([0.1, 0.1, -0.3]))
    assert standard_error(found(0.5, 0.3), found(0.6, 0.4)) == 0.0
    assert standard_error(found(0.5), found(0.6)) == 0.0
    assert standard_error(found(0.5, 0.3, 0.4), PEAK) == 0.0


@pytest.mark.parametrize(("score", "kept"), [(0.61, True), (0.60, True), (0.55, True), (0.40, False)])
def test_a_later_state_is_kept_unless_worse_by_more_than_the_noise(score: float, kept: bool) -> None:
    new = found(score, 0.3, 0.7, 0.6, 0.5)  # standard error 0.103
    assert replaces(new, PEAK) is kept
    assert is_higher(new, PEAK) is (score >= 0.60)


def test_without_pictures_the_higher_score_is_kept() -> None:
    assert replaces(found(0.6), found(0.6)) and not replaces(found(0.599), found(0.6))
    assert replaces(found(math.nan), None)


def test_complete_and_defined_come_first() -> None:
    partial, undefined = found(0.9, complete=False), found(math.nan, 0.3, 0.7, 0.6, 0.5)
    assert not replaces(partial, PEAK) and replaces(PEAK, partial)
    assert not replaces(undefined, PEAK) and replaces(PEAK, undefined)
    assert replaces(found(math.nan), found(math.nan))


def test_one_that_was_cut_short_is_judged_on_the_pictures_that_it_saw() -> None:
    def kept(*per_image: float) -> bool:
        return replaces(found(0.1, *per_image, complete=False), PEAK)

    assert kept(0.3, 0.95) and not kept(0.1, 0.8)  # better, worse on both by the same
    assert kept(0.3, 0.85)  # +0.1, -0.05: within the noise
    assert not kept(0.3) and not kept(math.nan, 0.95)  # one picture tells nothing
    many = found(0.6, *[0.5] * 100)
    assert not replaces(found(0.9, *[0.9] * 24, complete=False), many)  # less than a quarter
    assert replaces(found(0.9, *[0.9] * 25, complete=False), many)
    assert not replaces(PEAK, found(0.9, 0.9, 0.9, 0.9, 0.9))  # complete ones as ever
