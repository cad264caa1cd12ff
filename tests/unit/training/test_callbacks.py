"""When the coach validates, what it keeps and when it stops: a pretend run on an injected clock."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semseg_automl.training import callbacks
from semseg_automl.training.callbacks import Coach, Pacer
from semseg_automl.training.job import Hooks
from semseg_automl.training.validate import Validation


class Run:
    """Steps and validations of fixed cost, scores from a list; ``time`` in callbacks is this clock."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        limit: float = math.inf,
        max_steps: int = 10_000,
        step: float = 0.1,
        validation: float = 0.5,
        scores: list[float] | None = None,
        per_image: list[tuple[float, ...]] | None = None,
        pictures: int = 4,
        **hooks: Any,
    ) -> None:
        self.now, self.step, self.validation = 0.0, step, validation
        self.scores = iter(scores or [])
        self.per_image = iter(per_image or [])
        self.validated: list[int] = []
        self.seen = pictures  # of the pictures, by each validation
        self.completed: list[bool] = []
        self.global_step, self.should_stop, self.accumulate_grad_batches = 0, False, 1
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(callbacks, "validate", self.validate)
        monkeypatch.setattr(callbacks, "snapshot", lambda _module: self.global_step)
        self.hooks = Hooks(remaining=lambda: limit - self.now, **hooks)
        pacer = Pacer(self.hooks, max_steps)
        data: Any = range(pictures)
        self.coach = Coach(data, pacer, self.hooks, eval_metric="iou", precision="32-true")
        self.module: Any = SimpleNamespace(
            average=SimpleNamespace(swap_in=lambda: None, swap_out=lambda: None),
            segmenter=None,
            forward_fast=None,
            last_loss=1.0,
            pixel_share=1.0,
            device=torch.device("cpu"),
        )
        self.max_steps = max_steps

    def validate(self, *_args: Any, out_of_time: Any, **_kwargs: Any) -> Validation:
        started = self.now
        self.now += self.validation
        self.validated.append(self.global_step)
        self.completed.append(not out_of_time())
        return Validation(
            score=next(self.scores, 0.5),
            threshold=0.5,
            metrics={},
            pictures=self.seen,
            seconds=self.now - started,
            complete=not out_of_time(),
            never_predicted=(),
            per_image=next(self.per_image, ()),
        )

    def go(self) -> Coach:
        self.coach.on_train_start(self, self.module)
        while not self.should_stop and self.global_step < self.max_steps:
            self.now += self.step
            self.global_step += 1
            self.coach.on_train_batch_end(self, self.module, None, None, 0)
        self.coach.on_train_end(self, self.module)
        return self.coach


@pytest.mark.parametrize("limit", [2.0, 10.0, 100.0])
@pytest.mark.parametrize(("step", "validation"), [(0.1, 0.5), (0.5, 0.1), (0.02, 1.0)])
def test_the_deadline_holds_including_the_last_validation(
    limit: float, step: float, validation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, limit=limit, step=step, validation=validation)
    coach = run.go()
    assert coach.state == "time" and run.now <= limit + validation + 2 * step
    if limit >= 10.0:  # the cost of a validation was seen before the end
        assert run.now <= limit and run.now >= 0.8 * limit
    assert run.validated[-1] == run.global_step  # the last step is judged, too


def test_steps_on_smaller_pictures_do_not_make_a_validation_look_cheap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    full = (0.8, 1.0)  # seconds, share of the pixels
    for seconds, share in [*[(0.2, 0.25)] * 40, *[full] * 5]:  # as many pixels a second throughout
        run.module.pixel_share = share
        run.now += seconds
        run.global_step += 1
        run.coach._tick, run.coach._seen = run.now - seconds, run.global_step  # nothing is decided
        run.coach.on_train_batch_end(run, run.module, None, None, 0)
    assert run.coach.seconds_per_step == pytest.approx(0.2)
    assert run.coach.validation_estimate() == pytest.approx(0.35 * 0.8 * 4)


def test_what_was_seen_of_a_validation_that_was_cut_short_tells_what_a_whole_one_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, limit=1.0, validation=2.0, pictures=8)
    run.seen = 2
    assert run.go().validation_estimate() == pytest.approx(8.0) and not run.completed[-1]


def test_a_validation_is_expected_to_take_what_it_took_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.coach.expected_val = 6.0
    assert run.coach.validation_estimate() == 6.0
    run.go()
    assert run.coach.validation_estimate() == 0.5  # its own


@pytest.mark.parametrize("one_of_several", [False, True])
def test_the_end_of_a_share_of_the_time_cuts_no_validation_short(
    one_of_several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = {"until": lambda: math.inf} if one_of_several else {}
    run = Run(monkeypatch, limit=2.0, step=0.1, validation=3.0, **hooks)
    run.go()
    assert set(run.completed) == {one_of_several}


def test_with_no_time_at_all_one_step_and_one_validation_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, limit=-3.0)
    coach = run.go()
    assert (run.global_step, run.validated, coach.state) == (1, [1], "time")
    assert coach.best_state == 1  # a usable model


def test_validations_take_about_a_tenth_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, limit=300.0, step=0.1, validation=4.0)
    coach = run.go()
    assert 2 <= len(run.validated) <= 9 and coach.val_seconds <= 0.13 * 300
    cheap = Run(monkeypatch, limit=300.0, step=0.1, validation=0.01)
    assert 10 <= len(cheap.go().history) <= 14  # however cheap, about a dozen


def test_without_a_limit_the_schedule_is_of_counts_not_of_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the same seed would keep another checkpoint on another machine."""
    runs = []
    for step, validation in ((0.01, 3.0), (2.0, 0.001)):
        runs.append(Run(monkeypatch, max_steps=60, step=step, validation=validation))
        runs[-1].coach.batch_size = 4
        runs[-1].go()
    assert runs[0].validated == runs[1].validated and len(runs[0].validated) > 5
    assert runs[0].coach.state == "finished" and runs[0].validated[-1] == 60


def test_the_best_is_kept_and_of_equals_the_later(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, max_steps=60, scores=[0.2, 0.6, 0.6, 0.3, math.nan])
    run.coach.batch_size = 400
    coach = run.go()
    third = run.validated[2]
    assert coach.best is not None and coach.best.score == 0.6 and coach.best_state == third
    assert [s for _, _, s in coach.history][:3] == [0.2, 0.6, 0.6]


def test_a_later_state_that_can_not_be_told_from_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [(0.2, 0.9, 0.4), (0.9, 0.4, 0.5), (0.7, 0.5, 0.5), (0.5, 0.3, 0.3)]
    run = Run(monkeypatch, max_steps=160, scores=[0.5, 0.6, 0.57, 0.4], per_image=pictures)
    run.coach.batch_size = 400
    coach = run.go()
    assert len(run.validated) >= 4
    assert coach.best is not None and coach.best.score == 0.57 and coach.best_state == run.validated[2]
    assert coach.peak is not None and coach.peak.score == 0.6


def test_any_score_is_better_than_an_undefined_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, max_steps=60, scores=[math.nan, 0.0, *[math.nan] * 50])
    run.coach.batch_size = 400
    coach = run.go()
    assert coach.best is not None and coach.best.score == 0.0


def test_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[int, float]] = []

    def report(step: int, score: float) -> bool:
        reports.append((step, score))
        return len(reports) == 2

    run = Run(monkeypatch, max_steps=120, scores=[0.3, 0.2], report=report)
    run.coach.batch_size = 400
    coach = run.go()
    assert coach.state == "pruned" and [s for _, s in reports] == [0.3, 0.2]
    assert run.validated == [step for step, _ in reports]  # and no further one at the end


def test_ctrl_c_stops_after_the_step_and_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, stop_requested=lambda: run.global_step >= 5)
    coach = run.go()
    assert (coach.state, run.global_step, run.validated) == ("interrupted", 5, [5])


def test_progress_tells_step_score_loss_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    run = Run(monkeypatch, limit=5.0, progress=events.append)
    run.go()
    assert len(events) == run.global_step and [e["step"] for e in events] == sorted(e["step"] for e in events)
    assert {"fraction", "score", "loss", "left"} <= set(events[0])
    assert math.isnan(events[0]["score"]) and events[-1]["score"] == 0.5
    assert 0 < events[0]["fraction"] <= events[-1]["fraction"] <= 1


def test_fraction_is_of_steps_or_of_time_whichever_is_further(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, limit=10.0, max_steps=100)
    pacer = run.coach.pacer
    assert pacer.fraction(0) == 0.0 and pacer.fraction(30) == 0.3
    run.now = 5.0
    assert pacer.fraction(30) == 0.5
    pacer.reserve = 2.0  # kept for the last validation
    assert pacer.fraction(30) == 0.625
    run.now = 50.0
    assert pacer.fraction(30) == 1.0
    assert Run(monkeypatch, max_steps=100).coach.pacer.fraction(25) == 0.25


def test_step_time_is_a_median_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    coach = Run(monkeypatch).coach
    assert math.isnan(coach.seconds_per_step)
    coach.step_seconds = [9.0, 8.0]
    assert coach.seconds_per_step == 8.5
    coach.step_seconds = [9.0] * 5 + [0.1, 0.2, 0.9]
    assert coach.seconds_per_step == 0.2


@pytest.mark.parametrize("limit", [20.0 + 0.3 * k for k in range(12)])
def test_no_validation_is_begun_that_would_cut_the_last_one_short(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, limit=limit, validation=1.5)
    coach = run.go()
    assert all(run.completed) and run.now <= limit
    assert coach.history[-1][0] == run.global_step  # the last step was validated
    assert min(b - a for a, b in pairwise(run.validated)) > 1


@pytest.mark.parametrize("validated", [True, False])
def test_readers_whose_end_is_seen_before_the_signal(
    validated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes between the two times that the error is looked at: interrupted, with a model."""
    signals = iter([False, True])
    run = Run(monkeypatch, stop_requested=lambda: next(signals))
    run.global_step = 3
    if validated:
        run.coach.run_validation(run.module, 2)
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    run.coach.on_exception(run, run.module, error)
    assert run.coach.state == "finished" and len(run.validated) == validated  # as if a reader had crashed
    assert run.coach.stops_for(error, run, run.module)
    assert run.coach.state == "interrupted" and run.coach.best is not None
    assert len(run.validated) == 1


def test_other_errors_are_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, stop_requested=lambda: True)
    assert not run.coach.stops_for(RuntimeError("out of memory"), run, run.module)
    assert run.coach.state == "finished" and not run.validated
