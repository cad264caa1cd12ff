"""Which of two models an outcome keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.search.limits import Limits
from semseg_automl.search.outcome import FURTHER, Outcome, row_of
from semseg_automl.search.trial import Attempt
from semseg_automl.training.job import ModelState, TrainResult

PICTURES = (0.5, 0.6, 0.7, 0.4)
NO_PLAN: Any = None


def model(gain: tuple[float, ...], seconds: float, **parts: Any) -> TrainResult:
    """A model whose scores are ``PICTURES`` and so much more, after ``seconds`` of training."""
    scores = tuple(p + g for p, g in zip(PICTURES, gain, strict=True))
    values: dict[str, Any] = {
        "state": "time",
        "score": sum(scores) / len(scores),
        "threshold": 0.5,
        "metrics": {},
        "model": ModelState(adapter={}, head={"tag": torch.tensor(seconds)}),
        "steps": 10,
        "epochs": seconds / 10.0,
        "seconds": seconds,
        "train_seconds": seconds,
        "val_seconds": 0.0,
        "seconds_per_step": 0.1,
        "predict_seconds": 0.1,
        "peak_memory_mb": 100.0,
        "n_trainable": 5,
        "per_image": scores,
    }
    return TrainResult(**{**values, **parts})


def kept(*models: TrainResult, continued: bool = False, limits: Limits | None = None) -> float:
    """Seconds of training of the model that is kept of several, recorded in this order."""
    outcome = Outcome(plan=NO_PLAN, limits=limits or Limits())
    for number, found in enumerate(models):
        attempt = Attempt(result=found, reason="", seconds=found.seconds)
        if continued and number:
            row = row_of("finished", RunConfig(), attempt)
            outcome.adopt(row, RunConfig(), found, continued=True)
        else:
            outcome.add(f"trial_{number}", RunConfig(), attempt)
    assert outcome.best is not None
    return outcome.best.seconds


SAME = (0.0,) * 4
NOISY = (0.10, -0.12, 0.02, -0.04)  # -0.01 in the mean, its standard error is 0.05
WORSE = (-0.05, -0.06, -0.05, -0.04)  # -0.05, its standard error is 0.004
SLIGHTLY = (-0.01,) * 4  # -0.01 on each picture


@pytest.mark.parametrize(("gain", "further"), [(NOISY, True), (WORSE, False), (SLIGHTLY, False)])
def test_a_model_that_was_trained_further_is_kept_unless_it_is_surely_worse(
    gain: tuple[float, ...], further: bool
) -> None:
    early, late = model(SAME, 50.0), model(gain, 50.0 * FURTHER)
    assert kept(early, late) == (late if further else early).seconds
    assert kept(late, early) == (late if further else early).seconds  # in either order


def test_models_that_were_trained_as_long_are_compared_by_their_scores() -> None:
    first, second = model(NOISY, 50.0), model(SAME, 52.0)
    assert kept(first, second) == 52.0 and kept(second, first) == 52.0
    assert kept(model(SAME, 50.0), model(SAME, 52.0)) == 50.0  # of equals the first


def test_the_best_model_trained_on_is_kept_unless_it_is_surely_worse() -> None:
    assert kept(model(SAME, 50.0), model(NOISY, 60.0), continued=True) == 60.0
    assert kept(model(SAME, 50.0), model(WORSE, 60.0), continued=True) == 50.0


@pytest.mark.parametrize("parts", [{"seconds": 50.0}, {"epochs": 5.0}])
def test_neither_slower_steps_nor_smaller_pictures_are_more_training(parts: dict[str, Any]) -> None:
    first, second = model(SAME, 50.0), replace(model(NOISY, 500.0), **parts)
    outcome = Outcome(plan=NO_PLAN)
    for name, found in (("trial_0", first), ("trial_1", second)):
        outcome.add(name, RunConfig(), Attempt(result=found, reason="", seconds=found.seconds))
    assert outcome.best is first


def test_limits_and_whole_validations_come_before_scores() -> None:
    late = model(SAME, 500.0, peak_memory_mb=3000.0)
    early = model(WORSE, 50.0)
    assert kept(late, early, limits=Limits(max_memory=2000.0)) == kept(early, late) / 10 == 50.0
    assert kept(model(SAME, 500.0, complete=False), early) == 50.0


def test_without_scores_of_single_pictures_a_lower_score_is_surely_worse() -> None:
    early = replace(model(SAME, 50.0), per_image=())
    late = replace(model(NOISY, 500.0), per_image=())
    assert kept(early, late) == 50.0
