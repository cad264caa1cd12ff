"""Which devices train what: a search's trials the first one, everything else all."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.search import trials
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.run_folder import RunFolder
from semseg_automl.search.session import Session
from semseg_automl.search.space import Int
from semseg_automl.search.study import open_study, quiet_optuna
from semseg_automl.search.trial import Attempt, _remedy
from semseg_automl.training.job import TrainJob


def _job(**changes: Any) -> TrainJob:
    empty: Any = None
    parts = {"label_map": empty, "train": empty, "val": empty, "weights": empty, "eval_metric": "iou"}
    return TrainJob(**{**parts, "config": RunConfig(), "device_ids": (2, 3, 5), "max_steps": 100, **changes})


def test_trials_run_on_the_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def run_trial(job: TrainJob, _hooks: Any) -> Attempt:
        seen.append(job.device_ids)
        return Attempt(result=None, reason="for the test", seconds=0.0)

    monkeypatch.setattr(trials, "run_trial", run_trial)
    plan: Any = SimpleNamespace(
        own_steps=False,
        config=RunConfig(),
        spaces={"rank": Int(2, 4)},
        trials=2,
        rungs=(math.inf,),
        reserve=0.0,
        finish=0.0,
    )
    session = Session(
        request=FitRequest(config=RunConfig(), tune=TuneSettings(num_trials=2)),
        job=_job(),
        budget=Budget(None),
        stop=Interrupt(),
        files=RunFolder(None),
        outcome=Outcome(plan=plan),
        on_best=lambda _outcome: None,
        progress=lambda _event: None,
    )
    with quiet_optuna():
        trials.run_trials(session, open_study(TuneSettings(), 0, None, "test"))
    assert seen == [(2,), (2,)]


def test_out_of_memory_halves_what_one_device_holds() -> None:
    job = _job(config=RunConfig().replace(batch_size=11))  # 4 pictures on each of 3 devices
    changed, _ = _remedy(job, RuntimeError("CUDA out of memory"))
    assert changed is not None and changed.micro_batch_size == 2
