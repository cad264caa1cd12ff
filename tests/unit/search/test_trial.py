"""What a trial does when training fails: halve, fall back, or answer with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError, DataError, TrainingError
from semseg_automl.search import trial
from semseg_automl.search.trial import Attempt, run_trial
from semseg_automl.training.job import Hooks, TrainJob, TrainResult
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
    outcomes: list[Exception | float | TrainResult],
    monkeypatch: pytest.MonkeyPatch,
    job: TrainJob = JOB,
    **hooks: Any,
) -> tuple[Attempt, list[TrainJob]]:
    jobs: list[TrainJob] = []

    def train(job: TrainJob, _hooks: Hooks) -> Any:
        jobs.append(job)
        outcome = outcomes[len(jobs) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, TrainResult) else result(outcome)

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


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_an_overflow_after_a_validation_goes_on_in_float32(
    precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, overflown = replace(JOB, precision=precision), result(0.4, state="nan")
    found, jobs = attempt([overflown, 0.5], monkeypatch, job)
    assert found.result is not None and found.result.score == 0.5
    assert [j.precision for j in jobs] == [precision, "32-true"]
    assert f"left the range of {precision}. Going on in float32." in caplog.text
    assert found.reason in caplog.text
    found, jobs = attempt([overflown, 0.3], monkeypatch, job)
    assert found.result is overflown and len(jobs) == 2  # what was better is kept
    found, jobs = attempt([overflown, RuntimeError("no kernel")], monkeypatch, job)
    assert found.result is overflown and found.reason == "RuntimeError: no kernel"
    found, jobs = attempt([overflown, 0.5], monkeypatch, replace(JOB, precision="32-true"))
    assert found.result is overflown and found.reason == "nan" and len(jobs) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
        TrainingError("Training process 1 of 2: RuntimeError: DataLoader worker (pid(s) 12) exited\nlog"),
        OSError(11, "Resource temporarily unavailable"),
    ],
    ids=["killed", "on several devices", "not started"],
)
def test_lost_readers_are_done_without(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found, jobs = attempt([error, 0.5], monkeypatch, replace(JOB, num_workers=2))
    assert found.result is not None and [j.num_workers for j in jobs] == [2, 0]
    assert "num_workers=0" in found.reason and found.reason in caplog.text
    if isinstance(error, OSError):
        with pytest.raises(OSError, match="unavailable"):  # not of any reader
            attempt([error], monkeypatch)
    else:
        assert attempt([error], monkeypatch)[0].result is None


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
