"""The order of a search on an injected clock: no network, no data, every trial simulated."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import BudgetError, ConfigError, TrainingError
from semseg_automl.search import finish, run, trials
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.planner import Fingerprint, Probe
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.run import gone_on, run_search
from semseg_automl.search.run_folder import RunFolder, Start
from semseg_automl.search.space import Categorical, Real
from semseg_automl.search.study import chains_of
from semseg_automl.search.trial import Attempt
from semseg_automl.training import feature_store
from semseg_automl.training.job import Hooks, ModelState, TrainJob, TrainResult
from semseg_automl.training.validate import Validation

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

    def __init__(self, scores: list[float | str], overhead: float = 0.5) -> None:
        self.now = 0.0
        self.scores: Iterator[float | str] = iter(scores)
        self.jobs: list[TrainJob] = []
        self.given: list[float] = []
        self.overhead = overhead
        self.during: Callable[[int], None] = lambda _n: None
        self.average = 0.0
        self.averaged: list[float] = []

    def score_model(self, job: TrainJob, _hooks: Hooks) -> Validation:
        assert job.init is not None
        self.averaged.append(float(job.init.head["tag"]))
        return Validation(
            score=self.average,
            threshold=0.4,
            metrics={"iou": self.average},
            pictures=1,
            seconds=0.1,
            complete=True,
            never_predicted=(),
        )

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
        return Attempt(
            result=result(value, state=state, tag=float(len(self.jobs))), reason=state, seconds=used
        )


@contextlib.contextmanager
def alone(session: Any, _study: Any, _storage: Any) -> Iterator[tuple[Any, None]]:
    """No helpers: there is no data that they could be given."""
    yield session, None


def search(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    limit: float | None = 600.0,
    stop: Interrupt | None = None,
    **request: Any,
) -> tuple[Outcome, list[float]]:
    for part in (run, trials, finish):
        monkeypatch.setattr(part, "run_trial", machine.run_trial)
    monkeypatch.setattr(finish, "score_model", machine.score_model)
    monkeypatch.setattr(run, "measure", lambda *_a: (1, FAST))
    monkeypatch.setattr(run, "crew_of", alone)
    empty: Any = None
    train: Any = SimpleNamespace(sizes=[(FACTS.height, FACTS.width)] * FACTS.n_train)
    job = TrainJob(
        config=RunConfig(), label_map=empty, train=train, val=empty, weights=empty, eval_metric="iou"
    )
    kept: list[float] = []
    outcome = run_search(
        FitRequest(**{"config": RunConfig(), **request}),
        job,
        FACTS,
        Budget(limit, lambda: machine.now),
        stop or Interrupt(),
        on_best=lambda o: kept.append(o.best.score if o.best else math.nan),
    )
    return outcome, kept


def test_trials_with_epochs_of_their_own_count_their_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.3] * 12)
    tune = TuneSettings(num_trials=6, sampler=optuna.samplers.RandomSampler(seed=0))
    search(machine, monkeypatch, limit=None, spaces={"max_epochs": Categorical(2, 30)}, tune=tune)
    assert [job.max_steps for job in machine.jobs] == [None] * 6
    assert {job.config.optim.max_epochs for job in machine.jobs} == {2, 30}
    search(machine, monkeypatch, limit=None, spaces={"rank": Categorical(2, 4)}, tune=tune)
    assert [job.max_steps for job in machine.jobs[6:]] == [30 * FACTS.n_train / 4] * 6


@pytest.mark.parametrize("readable", [True, False])
def test_a_database_that_is_lost_ends_no_search(
    readable: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """SQLAlchemy's errors come as Optuna's StorageInternalError."""
    machine = Machine([0.3, 0.5, 0.4, 0.6])

    def refuse(*_arguments: Any, **_named: Any) -> Any:
        raise optuna.exceptions.StorageInternalError("connection lost")

    def breaks(n: int) -> None:
        if n == 2:
            monkeypatch.setattr(optuna.storages._CachedStorage, "set_trial_state_values", refuse)
            if not readable:
                monkeypatch.setattr(optuna.storages._CachedStorage, "get_all_trials", refuse)

    machine.during = breaks
    storage = f"sqlite:///{(tmp_path / 's.db').as_posix()}"
    outcome, _ = search(machine, monkeypatch, tune=TuneSettings(num_trials=3), storage=storage)
    assert outcome.best is not None and "goes on in memory" in caplog.text
    assert len(machine.jobs) > 2 and outcome.rows[0].model == "default"
    assert ("can't be read any more" in caplog.text) == (not readable)


def test_a_search_that_ended_and_goes_on_has_a_study_of_its_own(tmp_path: Path) -> None:
    storage, folder = optuna.storages.InMemoryStorage(), tmp_path / "m"
    assert run._run_of(storage, folder, new=False) == run._run_of(storage, folder, new=True) == "m"
    optuna.create_study(storage=storage, study_name="m")
    assert run._run_of(storage, folder, new=False) == "m"  # refused, or gone on with after a kill
    assert run._run_of(storage, folder, new=True) == "m_run2"
    optuna.create_study(storage=storage, study_name="m_run2")  # of a folder that is called so
    assert run._run_of(storage, folder, new=False) == "m"
    assert run._run_of(storage, folder, new=True) == "m_run3"
    optuna.create_study(storage=storage, study_name="m_run3").set_user_attr("folder", str(folder))
    assert run._run_of(storage, folder, new=False) == "m_run3"
    assert run._run_of(storage, tmp_path / "m_run2", new=False) == "m_run2"
    assert run._run_of(storage, tmp_path / "new_run2", new=False) == "new_run2"


def test_what_was_searched_is_searched_when_a_killed_fit_goes_on() -> None:
    spaces = {"image_size": Categorical(192, 512), "rank": Categorical(4, 8)}
    request = FitRequest(config=RunConfig(), spaces=spaces, tune=TuneSettings(num_trials=4))
    plan = run.make_plan(request, FACTS, FAST, 600.0)
    start = Start(config=plan.config, probe=FAST, rungs=plan.rungs)
    again = run.make_plan(gone_on(request, start), FACTS, FAST, 300.0)
    assert again.spaces == plan.spaces == spaces and again.trials == 4
    assert again.config.optim.crop_size is None


def test_default_first_then_others_then_the_best_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three trials end at the first rung, the best one reaches the second and then its decay."""
    machine = Machine([0.3, 0.5, 0.4, 0.55, 0.6], overhead=0.0)
    outcome, kept = search(machine, monkeypatch, tune=TuneSettings(num_trials=3))
    names = ["default", "trial_1", "trial_2", "trial_1_finished", "trial_1_averaged"]
    assert [row.model for row in outcome.rows] == names
    assert [row.score_val for row in outcome.rows] == [0.3, 0.55, 0.4, 0.6, 0.0]  # a row a chain
    assert kept == [0.3, 0.5, 0.55, 0.6] and outcome.best_name == "trial_1_finished"
    assert machine.jobs[0].config == outcome.plan.config and outcome.plan.config.optim.schedule == "wsd"
    first, second = outcome.plan.rungs
    assert machine.given[:4] == pytest.approx([first, first, first, second - first], rel=0.01)
    thawed, finished = machine.jobs[3:]
    assert thawed.config == machine.jobs[1].config == finished.config and thawed.decay == 0.0
    assert finished.init is None and 0.9 < finished.decay < 1.0  # type: ignore[operator]  # 1 s is behind it
    assert machine.given[4] >= 0.14 * 600
    assert [(t.state.name, t.user_attrs.get("continues")) for t in outcome.study.trials] == [
        ("PRUNED", None),
        ("PRUNED", None),
        ("PRUNED", None),
        ("COMPLETE", 1),
    ]


@pytest.mark.parametrize("fault", [1, 8, 20])
def test_a_journal_that_can_not_be_written_any_more_ends_no_search(
    fault: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = optuna.storages.journal.JournalFileBackend.append_logs, itertools.count()

    def full(self: Any, logs: Any) -> None:
        if next(calls) >= fault:
            raise OSError(28, "No space left on device")
        real(self, logs)

    monkeypatch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", full)
    machine = Machine([0.3, 0.5, 0.4, 0.2])
    outcome, _ = search(machine, monkeypatch, None, tune=TuneSettings(num_trials=3), folder=tmp_path)
    assert "goes on in memory" in caplog.text and len(outcome.rows) == 3
    assert outcome.best is not None and all(t.state.is_finished() for t in outcome.study.trials)


def test_a_search_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.3, 0.5, "failed", 0.55, 0.6])
    outcome, _ = search(machine, monkeypatch, tune=TuneSettings(num_trials=3))
    found = [(r["trial"], r["model"], r["rung"], r["continues"], r["score"]) for r in outcome.table]
    assert found == [
        (0, "default", 0, None, 0.3),
        (1, "trial_1", 0, None, 0.5),
        (2, "trial_2", 0, None, None),
        (3, "trial_1", 1, 1, 0.55),
    ]
    assert [r["state"] for r in outcome.table] == ["PRUNED", "PRUNED", "FAIL", "COMPLETE"]
    assert all(0.0 <= r["started"] <= r["ended"] for r in outcome.table)
    assert set(outcome.table[0]["params"]) == set(outcome.plan.spaces)
    assert json.loads(json.dumps(outcome.table)) == outcome.table


def test_the_best_score_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.3])
    real = machine.run_trial

    def with_history(job: TrainJob, hooks: Hooks) -> Attempt:
        attempt = real(job, hooks)
        assert attempt.result is not None
        history = ((5, 100.0, 0.1), (9, 200.0, 0.05), (12, 300.0, 0.3))
        return replace(attempt, result=replace(attempt.result, history=history, seconds=attempt.seconds))

    machine.run_trial = with_history  # type: ignore[method-assign]
    outcome, _ = search(machine, monkeypatch, 600.0, tune=None)
    assert outcome.course == [(pytest.approx(100.0, abs=1.0), 0.1), (pytest.approx(300.0, abs=1.0), 0.3)]


def test_the_mean_of_the_weights_is_kept_if_it_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.3, 0.5, 0.4, 0.55, 0.6], overhead=0.0)
    machine.average = 0.7
    outcome, kept = search(machine, monkeypatch, tune=TuneSettings(num_trials=3))
    assert machine.averaged == [4.5]  # of the fourth and the fifth training
    assert kept[-1] == 0.7 and outcome.best_name == "trial_1_averaged"
    assert outcome.best is not None and outcome.best.threshold == 0.4


def test_a_users_schedule_is_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trials run to their end, and the best one starts again at half its rates."""
    machine = Machine([0.3, 0.5, 0.4, 0.6])
    given = frozenset({"schedule"})
    outcome, _ = search(machine, monkeypatch, tune=TuneSettings(num_trials=3), given=given)
    assert [row.model for row in outcome.rows][:4] == ["default", "trial_1", "trial_2", "trial_1_finished"]
    last = machine.jobs[3]
    assert last.init is not None and float(last.init.head["tag"]) == 2.0  # continues, never from nothing
    assert last.config.optim.learning_rate == 0.5 * machine.jobs[1].config.optim.learning_rate
    assert last.decay is None and machine.given[3] >= 0.14 * 600


def test_a_finish_that_is_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine([0.5, 0.3, 0.2], overhead=0.0)
    outcome, kept = search(machine, monkeypatch, tune=TuneSettings(num_trials=2))
    assert kept == [0.5] and outcome.best_name == "default" and len(outcome.rows) == 4


@pytest.mark.parametrize("limit", [5.0, 30.0, 600.0, 7200.0])
@pytest.mark.parametrize("scores", [[], ["pruned"] * 60, [0.1, "failed"] + [0.2] * 500])
def test_the_deadline_is_kept(limit: float, scores: list, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(scores)
    outcome, _ = search(machine, monkeypatch, limit)
    assert machine.now <= 1.05 * limit + 1.0 and outcome.best is not None
    others = ("_finished", "_averaged", "decoder_only")  # models outside of the study
    chains = {row.model for row in outcome.rows if not row.model.endswith(others)}
    trials_ = [] if outcome.study is None else outcome.study.trials
    roots = {t.user_attrs.get("root", t.number) for t in trials_ if t.state.is_finished()} or {0}
    assert chains == {f"trial_{n}" if n else "default" for n in roots}


def test_pruned_trials_make_room_for_others_and_leave_the_finish_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine([0.4] + ["pruned"] * 500)
    settings = TuneSettings(pruner=optuna.pruners.MedianPruner())
    outcome, _ = search(machine, monkeypatch, 600.0, tune=settings)
    assert len(machine.jobs) > outcome.plan.trials + 2
    assert "default_finished" in {row.model for row in outcome.rows}
    assert machine.given[-1] >= 0.5 * outcome.plan.finish
    states = [t.state.name for t in outcome.study.trials]
    assert states[0] == "COMPLETE" and set(states[1:]) == {"PRUNED"}


def test_a_users_sampler_draws_all_but_the_default_until_it_has_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = TuneSettings(sampler=optuna.samplers.GridSampler({"rank": [2, 4, 16]}), pruner=None)
    spaces = {"rank": Categorical(2, 4, 8, 16)}
    machine = Machine([])
    outcome, _ = search(machine, monkeypatch, 7200.0, tune=settings, spaces=spaces)
    ranks = [t.params["rank"] for t in outcome.study.trials if "continues" not in t.user_attrs]
    assert ranks[0] == 8 and sorted(ranks[1:]) == [2, 4, 16]
    assert all(t.state.is_finished() for t in outcome.study.trials) and outcome.best is not None


class Rated(Machine):
    """Scores that fall off around a learning rate of 1e-3, as far as a tenth of it costs 0.1."""

    def run_trial(self, job: TrainJob, hooks: Hooks) -> Attempt:
        attempt = super().run_trial(job, hooks)
        score = 0.8 - 0.1 * abs(math.log10(job.config.optim.learning_rate / 1e-3))
        return replace(attempt, result=result(score))


@pytest.mark.parametrize("factor", [30.0, 8.0, 1 / 8.0, 1 / 30.0])
def test_a_search_recovers_from_a_wrong_default(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = RunConfig().replace(learning_rate=factor * 1e-3)
    found, _ = search(Rated([]), monkeypatch, 300.0, config=wrong, auto_tune=False)
    if 0.1 < factor < 10.0:  # it lies in the range that is searched, and is tried
        assert found.rows[0].model == "default" and found.rows[0].score_val < 0.8 - 0.09
    good, _ = search(Rated([]), monkeypatch, 300.0, tune=None)
    assert found.best is not None and good.best is not None
    assert found.best.score >= good.best.score - 0.02


@pytest.mark.parametrize(("noise", "rate"), [(0.1, 1e-3), (0.001, 3.3e-5)])
def test_where_looks_can_not_be_told_apart_the_librarys_own_values_go_on(
    noise: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong default is ahead by 0.01 after its look, picture by picture by 0.01 plus or minus noise."""

    def on_disk(_session: Any, row: Any) -> TrainResult:
        signs = 0.0 if row.model == "default" else noise
        pictures = tuple(row.score_val + signs * (-1) ** number for number in range(16))
        return replace(result(row.score_val), per_image=pictures)

    monkeypatch.setattr(trials, "_kept_result", on_disk)
    wrong = RunConfig().replace(learning_rate=3.3e-5)
    space = {"learning_rate": Real(3.3e-5, 1e-2, log=True)}
    machine = Machine([0.469, 0.459, 0.45, 0.5])
    tune = TuneSettings(num_trials=3)
    outcome, _ = search(machine, monkeypatch, 300.0, config=wrong, tune=tune, spaces=space)
    assert len(outcome.plan.rungs) == 2
    assert [job.config.optim.learning_rate for job in machine.jobs[:2]] == [3.3e-5, 1e-3]
    assert machine.jobs[3].config.optim.learning_rate == rate


class Killed(BaseException):
    """The process ends."""


@pytest.mark.parametrize(("limit", "more"), [(60.0, -1), (600.0, 0), (6000.0, 1)])
def test_rungs_follow_the_time_that_is_left(
    limit: float, more: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed after some 300 of 600 s, and gone on with while ``limit`` is left."""
    machine = Machine([])

    def die(_number: int) -> None:
        if machine.now > 300.0:
            raise Killed

    machine.during = die
    with pytest.raises(Killed):
        search(machine, monkeypatch, 600.0, folder=tmp_path, auto_tune=False)
    first = RunFolder(tmp_path).read_start()
    assert first is not None and len(first.rungs) > 1
    machine.now, machine.during = 0.0, lambda _n: None
    outcome, _ = search(machine, monkeypatch, limit, folder=tmp_path, auto_tune=False)
    rungs = outcome.plan.rungs
    shared = min(len(rungs), len(first.rungs))
    assert rungs[:shared] == first.rungs[:shared]  # ends stay where they were
    assert (len(rungs) > len(first.rungs)) - (len(rungs) < len(first.rungs)) == more
    assert machine.now <= 1.05 * limit + 1.0
    told = [line for line in outcome.plan.reasons if "trials are paused after" in line]
    assert len(told) == 1 and told[0].startswith("goes on:") and ("instead of" in told[0]) == (more != 0)
    if more >= 0:
        assert any(len(c.scores) == len(rungs) for c in chains_of(outcome.study.trials))


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


def test_a_search_without_room_for_a_training_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_next", lambda *_args, **_more: trials.STOP)
    with pytest.raises(BudgetError, match="neither the time nor the number of trials"):
        search(Machine([0.1]), monkeypatch, tune=TuneSettings(num_trials=2))


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
    assert len(caches) == 5 and len(set(caches)) == 1  # three trials, one goes on, the finish
    assert caches[0] is not None and Path(caches[0]).parent == tmp_path / "search"
    assert not Path(caches[0]).exists()
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
    def full(*_args: Any, **_kwargs: Any) -> str:
        raise OSError(28, "No space left on device")

    machine = Machine([0.3])
    monkeypatch.setattr(feature_store.tempfile, "mkdtemp", full)
    search(machine, monkeypatch, tune=None, folder=tmp_path, **LIGHT)
    assert machine.jobs[0].feature_cache is None and "No feature cache" in caplog.text


def test_a_fit_with_the_users_own_augmentation_goes_on_with_it_only() -> None:
    config = RunConfig().replace(augment="own: darker")
    start = Start(config=config, probe=Probe(train_seconds_per_mpx=1.0, predict_seconds_per_mpx=1.0))
    own = FitRequest(config=config, given=frozenset({"augment"}), own_augment=lambda i, m, r: (i, m))
    assert gone_on(own, start).own_augment is own.own_augment
    with pytest.raises(ConfigError, match=r"own: darker\): give it again"):
        gone_on(FitRequest(config=RunConfig()), start)
    with pytest.raises(ConfigError, match=r"augment \(own: darker -> own: other\)"):
        gone_on(replace(own, config=config.replace(augment="own: other")), start)
