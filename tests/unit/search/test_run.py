"""The order of a search on an injected clock: no network, no data, every trial simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import TrainingError
from semseg_automl.search import run
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.planner import Fingerprint, Probe
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.run import Outcome, run_search
from semseg_automl.search.trial import Attempt
from semseg_automl.training.job import Hooks, ModelState, TrainJob, TrainResult

FACTS = Fingerprint(n_train=200, n_val=20, height=200, width=256, n_classes=2, foreground=0.2, thinness=0.01)
FAST = Probe(train_seconds_per_mpx=0.01, predict_seconds_per_mpx=0.004)


def result(score: float, *, state: str = "time", tag: float = 0.0) -> TrainResult:
    return TrainResult(
        state=state,
        score=score,
        threshold=0.5,
        metrics={"iou": score},
        model=ModelState(adapter={}, head={"tag": torch.tensor(tag)}),
        steps=10,
        epochs=1.0,
        seconds=1.0,
        train_seconds=0.8,
        val_seconds=0.1,
        seconds_per_step=0.1,
        predict_seconds=0.1,
        peak_memory_mb=1.0,
        n_trainable=5,
    )


class Machine:
    """Trials that use all the time they are given and score as the list says."""

    def __init__(self, scores: list[float | str]) -> None:
        self.now = 0.0
        self.scores: Iterator[float | str] = iter(scores)
        self.jobs: list[TrainJob] = []
        self.given: list[float] = []
        self.overhead = 0.5
        self.during: Callable[[int], None] = lambda _n: None

    def run_trial(self, job: TrainJob, hooks: Hooks) -> Attempt:
        left = hooks.remaining()
        self.jobs.append(job)
        self.given.append(left)
        self.during(len(self.jobs))
        used = (left if math.isfinite(left) else 10.0) + self.overhead
        score = next(self.scores, 0.1)
        if score == "pruned":
            used /= 5
        self.now += max(used, 0.0)
        if score == "failed":
            return Attempt(result=None, reason="RuntimeError: broken", seconds=used)
        state = "pruned" if score == "pruned" else "interrupted" if hooks.stop_requested() else "time"
        value = 0.05 if isinstance(score, str) else score
        return Attempt(result=result(value, state=state, tag=len(self.jobs)), reason=state, seconds=used)


def search(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    limit: float | None = 600.0,
    stop: Interrupt | None = None,
    **request: Any,
) -> tuple[Outcome, list[float]]:
    monkeypatch.setattr(run, "run_trial", machine.run_trial)
    monkeypatch.setattr(run, "probe_speed", lambda *_a: FAST)
    empty: Any = None
    train: Any = SimpleNamespace(sizes=[(FACTS.height, FACTS.width)] * FACTS.n_train)
    job = TrainJob(
        config=RunConfig(), label_map=empty, train=train, val=empty, weights=empty, eval_metric="iou"
    )
    kept: list[float] = []
    outcome = run_search(
        FitRequest(**{"config": RunConfig(), "folder": Path("fit"), **request}),
        job,
        FACTS,
        Budget(limit, lambda: machine.now),
        stop or Interrupt(),
        on_best=lambda o: kept.append(o.best.score if o.best else math.nan),
    )
    return outcome, kept


def test_default_first_then_others_then_the_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.3, 0.5, 0.4, 0.6])
    outcome, kept = search(machine, monkeypatch, tune=TuneSettings(num_trials=3))
    assert [row.model for row in outcome.rows] == ["default", "trial_1", "trial_2", "trial_1_finished"]
    assert kept == [0.3, 0.5, 0.6] and outcome.best_name == "trial_1_finished"
    assert machine.jobs[0].config == outcome.plan.config
    finish = machine.jobs[3]
    assert finish.init is not None and float(finish.init.head["tag"]) == 2.0  # continues, never from nothing
    assert finish.config.optim.learning_rate == 0.5 * machine.jobs[1].config.optim.learning_rate
    assert machine.given[3] >= 0.14 * 600


def test_a_finish_that_is_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, kept = search(Machine([0.5, 0.3, 0.2]), monkeypatch, tune=TuneSettings(num_trials=2))
    assert kept == [0.5] and outcome.best_name == "default" and len(outcome.rows) == 3


@pytest.mark.parametrize("limit", [5.0, 30.0, 600.0, 7200.0])
@pytest.mark.parametrize("scores", [[], ["pruned"] * 500, [0.1, "failed"] + [0.2] * 500])
def test_the_deadline_is_kept(limit: float, scores: list, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(scores)
    outcome, _ = search(machine, monkeypatch, limit)
    assert machine.now <= 1.05 * limit + 1.0 and outcome.best is not None
    assert len(outcome.rows) == len(machine.jobs)


def test_pruned_trials_make_room_for_others_and_leave_the_finish_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine([0.4] + ["pruned"] * 500)
    outcome, _ = search(machine, monkeypatch, 600.0)
    assert len(machine.jobs) > outcome.plan.trials + 2
    assert outcome.rows[-1].model == "default_finished"
    assert machine.given[-1] >= 0.5 * outcome.plan.finish
    states = [t.state.name for t in outcome.study.trials]
    assert states[0] == "COMPLETE" and set(states[1:]) == {"PRUNED"}


def test_without_a_search_one_model_gets_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.4])
    outcome, kept = search(machine, monkeypatch, 600.0, tune=None)
    assert [row.model for row in outcome.rows] == ["default"] and kept == [0.4]
    assert machine.given == [pytest.approx(600.0 - outcome.plan.reserve)] and outcome.study is None


def test_without_a_limit_trials_run_to_their_end_and_there_is_no_finish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine([0.3, 0.2])
    outcome, _ = search(machine, monkeypatch, None, tune=TuneSettings(num_trials=2))
    assert [row.model for row in outcome.rows] == ["default", "trial_1"]
    assert machine.given == [math.inf, math.inf]


def test_ctrl_c_ends_the_search_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, stop = Machine([0.3, 0.5]), Interrupt()

    def press(number: int) -> None:
        stop.requested = number == 2

    machine.during = press
    outcome, kept = search(machine, monkeypatch, stop=stop, tune=TuneSettings(num_trials=9))
    assert kept == [0.3, 0.5] and len(machine.jobs) == 2
    assert outcome.rows[-1].state == "interrupted"


def test_failed_trials_are_rows_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = search(Machine(["failed", 0.2, 0.1]), monkeypatch, tune=TuneSettings(num_trials=2))
    assert outcome.best_name == "trial_1" and outcome.rows[0].state == "failed"
    assert outcome.rows[0].reason == "RuntimeError: broken" and math.isnan(outcome.rows[0].score_val)


def test_if_all_fail_the_first_cause_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="RuntimeError: broken"):
        search(Machine(["failed"] * 3), monkeypatch, tune=TuneSettings(num_trials=3))


def test_callbacks_see_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str]] = []
    search(
        Machine([0.1, 0.2]),
        monkeypatch,
        tune=TuneSettings(num_trials=2),
        callbacks=(lambda _study, trial: seen.append((trial.number, trial.state.name)),),
    )
    assert seen == [(0, "COMPLETE"), (1, "COMPLETE")]


def test_a_score_that_is_undefined_is_better_than_nothing_and_worse_than_any() -> None:
    empty: Any = None
    outcome, config = Outcome(plan=empty), RunConfig()
    scores = [math.nan, 0.0, math.nan, 0.0, 0.1]
    better = [
        outcome.add(str(i), config, Attempt(result=result(s), reason="", seconds=1.0))
        for i, s in enumerate(scores)
    ]
    assert better == [True, True, False, False, True]
    assert outcome.step_seconds == pytest.approx(5 * 0.9)


def test_a_score_of_part_of_the_pictures_never_beats_one_of_all() -> None:
    empty: Any = None
    outcome, config = Outcome(plan=empty), RunConfig()
    partial = replace(result(0.9), complete=False)
    assert outcome.add("partial", config, Attempt(result=partial, reason="", seconds=1.0))
    assert outcome.add("all", config, Attempt(result=result(0.2), reason="", seconds=1.0))
    assert not outcome.add("partial again", config, Attempt(result=partial, reason="", seconds=1.0))


LIGHT: dict[str, Any] = {"config": RunConfig().replace(augment="light"), "given": frozenset({"augment"})}


def test_trials_share_one_feature_cache_that_is_removed_in_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine([0.3] * 9)
    machine.during = lambda n: caches.append(machine.jobs[n - 1].feature_cache)
    caches: list[str | None] = []
    with caplog.at_level("INFO", "semseg_automl"):
        search(machine, monkeypatch, tune=TuneSettings(num_trials=3), folder=tmp_path, **LIGHT)
    assert len(caches) == 4 and len(set(caches)) == 1
    assert caches[0] is not None and Path(caches[0]).parent == tmp_path and not list(tmp_path.iterdir())
    assert "Plan: features below the first trained block are kept: each picture is seen some" in caplog.text


def test_no_cache_where_augmentation_never_repeats_a_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine([0.3])
    with caplog.at_level("INFO", "semseg_automl"):
        search(machine, monkeypatch, 7200.0, tune=None, folder=tmp_path)
    assert machine.jobs[0].config.optim.augment == "medium" and machine.jobs[0].feature_cache is None
    assert "no feature cache: augment 'medium' makes new pictures every time" in caplog.text


def test_a_store_that_can_not_be_made_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine([0.3])
    search(machine, monkeypatch, tune=None, folder=tmp_path / "not there", **LIGHT)
    assert machine.jobs[0].feature_cache is None and "No feature cache" in caplog.text
