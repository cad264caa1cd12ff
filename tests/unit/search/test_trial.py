"""What a trial does when training fails: halve, fall back, or answer with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError, DataError, TrainingError
from semseg_automl.search import trial
from semseg_automl.search.trial import Attempt, run_trial
from semseg_automl.training.job import Hooks, TrainJob
from tests.unit.search.test_run import result

EMPTY: Any = None
JOB = TrainJob(
    config=RunConfig(),  # batches of 4
    label_map=EMPTY,
    train=EMPTY,
    val=EMPTY,
    weights=EMPTY,
    eval_metric="iou",
    precision="bf16-mixed",
)


def attempt(
    outcomes: list[Exception | float], monkeypatch: pytest.MonkeyPatch, job: TrainJob = JOB, **hooks: Any
) -> tuple[Attempt, list[TrainJob]]:
    jobs: list[TrainJob] = []

    def train(job: TrainJob, _hooks: Hooks) -> Any:
        jobs.append(job)
        outcome = outcomes[len(jobs) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return result(outcome)

    monkeypatch.setattr(trial, "train_on_devices", train)
    return run_trial(job, Hooks(**hooks)), jobs


def test_success(monkeypatch: pytest.MonkeyPatch) -> None:
    found, jobs = attempt([0.5], monkeypatch)
    assert found.result is not None and found.reason == "time" and jobs == [JOB]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA out of memory. Tried"), MemoryError(), RuntimeError("can't allocate 9 bytes")],
)
def test_out_of_memory_halves_the_micro_batch(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    found, jobs = attempt([error, error, 0.5], monkeypatch)
    assert found.result is not None and [j.micro_batch_size for j in jobs] == [None, 2, 1]
    assert found.reason == "Out of memory: micro-batch 2 -> 1."
    found, jobs = attempt([error, 0.5], monkeypatch, replace(JOB, micro_batch_size=1))
    assert found.result is not None and jobs[1].config.model.gradient_checkpointing
    found, jobs = attempt([error, error], monkeypatch, replace(JOB, micro_batch_size=1))
    assert found.result is None and "with gradient checkpointing" in found.reason and len(jobs) == 2


def test_nan_in_bfloat16_is_tried_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    error = TrainingError("the loss is nan.")
    error.__cause__ = FloatingPointError("the loss is nan")
    found, jobs = attempt([error, 0.5], monkeypatch)
    assert found.result is not None and [j.precision for j in jobs] == ["bf16-mixed", "32-true"]
    found, jobs = attempt([error], monkeypatch, replace(JOB, precision="32-true"))
    assert found.result is None and "the loss is nan" in found.reason and len(jobs) == 1


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), ConfigError("top_k must lie in 1..2")])
def test_other_causes_fail_this_trial_alone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    found, jobs = attempt([error], monkeypatch)
    assert found.result is None and len(jobs) == 1
    assert found.reason == f"{type(error).__name__}: {error}"


def test_wrong_data_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="gone"):
        attempt([DataError("a picture is gone")], monkeypatch)


def test_no_second_try_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    found, jobs = attempt([MemoryError(), 0.5], monkeypatch, stop_requested=lambda: True)
    assert found.result is None and len(jobs) == 1
