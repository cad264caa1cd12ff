"""Limits on memory and latency: what breaks them is never the best while something keeps them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import optuna
import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.search import run
from semseg_automl.search.limits import Limits
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.proposals import propose
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.rungs import Chain, promotable
from semseg_automl.search.space import Categorical, Real, Space
from semseg_automl.search.study import EXCESS, ask, chains_of, open_study, quiet_optuna, tell
from semseg_automl.search.trial import Attempt
from semseg_automl.training.job import Hooks, TrainJob
from tests.unit.search.test_run import Machine, result, search

CONFIG = RunConfig()


def test_excess_in_shares() -> None:
    limits = Limits(max_memory=1000.0, max_latency=0.5)
    assert limits.any and not Limits().any
    assert limits.excess(1500.0, 0.25) == (0.5, -0.5)
    assert limits.kept(1000.0, 0.5) and not limits.kept(1000.0, 0.51) and not limits.kept(1001.0, 0.1)
    assert limits.kept(math.nan, 0.1)  # not measured
    assert Limits(max_latency=0.5).excess(math.inf, 1.0) == (1.0,)
    assert limits.complaint(1500.0, 0.25) == "breaks max_memory=1000 MB (takes 1500)"
    assert "and max_latency=0.5 s a picture (takes 0.75)" in limits.complaint(1500.0, 0.75)
    assert limits.complaint(10.0, 0.1) == ""
    assert Limits.of(None) == Limits() and Limits.of(TuneSettings(max_memory=5.0)) == Limits(max_memory=5.0)


def test_the_best_keeps_the_limits_if_any_does() -> None:
    empty: Any = None
    outcome = Outcome(plan=empty, limits=Limits(max_memory=100.0))

    def add(name: str, score: float, memory: float) -> bool:
        found = replace(result(score), peak_memory_mb=memory)
        return outcome.add(name, CONFIG, Attempt(result=found, reason="time", seconds=1.0))

    assert add("big", 0.9, 300.0) and add("bigger score", 0.95, 200.0)  # better than nothing
    assert not outcome.keeps_limits(outcome.best)  # type: ignore[arg-type]
    assert add("small", 0.2, 100.0)
    assert not add("big again", 0.99, 101.0)
    assert outcome.best_name == "small"
    assert [row.reason for row in outcome.rows] == [
        "time; breaks max_memory=100 MB (takes 300)",
        "time; breaks max_memory=100 MB (takes 200)",
        "time",
        "time; breaks max_memory=100 MB (takes 101)",
    ]


def test_chains_that_break_a_limit_go_on_only_where_none_keeps_them() -> None:
    def chain(root: int, score: float, keeps: bool) -> Chain:
        return Chain(root=root, scores=(score,), status="paused", last=root, keeps=keeps)

    mixed = [chain(0, 0.9, False), chain(1, 0.1, True), chain(2, 0.8, False)]
    found = promotable(mixed, 3)
    assert found is not None and found.root == 1
    broken = [chain(i, 0.1 * i, False) for i in range(3)]
    found = promotable(broken, 3)
    assert found is not None and found.root == 2


SIZES: dict[str, Space] = {"rank": Categorical(2, 4, 8, 16), "weight_decay": Real(0.0, 0.1)}


@pytest.mark.parametrize("paused", [True, False])
def test_the_sampler_is_told_of_the_limits(paused: bool) -> None:
    """Small ranks score less but keep the limit: that is where it draws."""
    settings = TuneSettings(max_memory=100.0)
    with quiet_optuna():
        study = open_study(settings, 0, None, "test", paused=True)
        for rank, score in ((2, 0.2), (4, 0.3), (8, 0.8), (16, 0.9)) * 3:
            study.enqueue_trial({"rank": rank})
            trial, _ = ask(study, CONFIG, SIZES)
            trial.set_user_attr(EXCESS, list(Limits(max_memory=100.0).excess(20.0 * rank, 1.0)))
            tell(study, trial, score, pruned=paused)
        assert [c.keeps for c in chains_of(study.trials)] == [True, True, False, False] * 3
        drawn = []
        for _ in range(12):
            propose(study, CONFIG, SIZES)
            drawn.append(study.trials[-1].system_attrs["fixed_params"]["rank"])
            study.tell(study.ask().number, state=optuna.trial.TrialState.FAIL)
    assert sum(rank <= 4 for rank in drawn) >= 9, drawn


class Hungry(Machine):
    """Trials whose memory grows with their rank, and their score, too."""

    def run_trial(self, job: TrainJob, hooks: Hooks) -> Attempt:
        attempt = super().run_trial(job, hooks)
        rank = job.config.adapter.rank
        found = replace(result(0.01 * rank), peak_memory_mb=10.0 * rank)
        return replace(attempt, result=found)


def test_a_search_ends_with_a_model_that_keeps_the_limits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TuneSettings(num_trials=9, max_memory=100.0)
    outcome, _ = search(
        Hungry([]), monkeypatch, 7200.0, tune=settings, spaces={"rank": Categorical(2, 8, 16)}
    )
    assert outcome.best is not None and outcome.best.peak_memory_mb <= 100.0
    assert outcome.best.score == max(r.score_val for r in outcome.rows if r.peak_memory_mb <= 100.0)
    broken = [r for r in outcome.rows if r.peak_memory_mb > 100.0]
    assert broken and all("breaks max_memory=100 MB" in r.reason for r in broken)
    assert max(r.score_val for r in broken) > outcome.best.score
    assert "No model keeps the limits" not in caplog.text


def test_where_none_keeps_them_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TuneSettings(num_trials=3, max_memory=5.0)
    outcome, _ = search(Hungry([]), monkeypatch, tune=settings, spaces={"rank": Categorical(2, 8)})
    assert outcome.best is not None
    assert "No model keeps the limits" in caplog.text and "max_memory=5 MB (takes" in caplog.text


def test_memory_that_no_system_call_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "peak_memory_mb", lambda _kind: math.nan)
    with pytest.raises(ConfigError, match="doesn't tell what a training takes"):
        search(Machine([]), monkeypatch, tune=TuneSettings(max_memory=100.0))
