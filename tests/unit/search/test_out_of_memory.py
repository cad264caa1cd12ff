"""Memory that runs out beside the training: while speed is measured, at a second score, while storing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from semseg_automl.artifacts.read import read_model
from semseg_automl.core.errors import TrainingError
from semseg_automl.estimator import _store
from semseg_automl.models.devices import out_of_memory
from semseg_automl.search import facts
from semseg_automl.search.facts import probe_speed
from semseg_automl.training import average
from semseg_automl.training.average import score_model
from semseg_automl.training.job import Hooks
from semseg_automl.training.probe import StepTime, is_needed
from tests.integration.quick import NO_SEARCH, tiny
from tests.unit.search.test_planner import FACTS
from tests.unit.search.test_trial import JOB

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]
OTHER = RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("error", SHORT, ids=lambda e: type(e).__name__)
def test_short_memory_is_told_from_other_errors(error: Exception) -> None:
    assert out_of_memory(error)
    assert out_of_memory(TrainingError(f"Training process 1 of 2: {error} out of memory"))
    assert not out_of_memory(OTHER) and not out_of_memory(OSError("out of memory"))


def speed(monkeypatch: pytest.MonkeyPatch, error: Exception, fits: float) -> tuple[Any, list[Any]]:
    """The measured speed on a device that holds so many pixels, and what was tried."""
    tried: list[Any] = []

    def time_steps(_job: Any, shape: tuple[int, int], batch: int, *_rest: Any) -> dict[str, StepTime]:
        tried.append((shape, batch))
        if batch * shape[0] * shape[1] > fits:
            raise error
        return {"32-true": StepTime(train=0.02, predict=0.01)}

    monkeypatch.setattr(facts, "time_steps", time_steps)
    return probe_speed(JOB, FACTS, 10.0), tried


@pytest.mark.parametrize("error", SHORT, ids=lambda e: type(e).__name__)
def test_speed_is_measured_on_what_fits(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    found, tried = speed(monkeypatch, error, math.inf)
    (first, batch), side = tried[0], tried[0][0][0]
    assert len(tried) == 1 and batch == 2
    assert found.train_seconds_per_mpx == pytest.approx(0.02e6 / side**2)
    found, tried = speed(monkeypatch, error, side * side / 4)
    half = (side // 2, side // 2)
    assert tried == [(first, 2), (first, 1), (half, 1)]
    assert found.train_seconds_per_mpx == pytest.approx(0.02e6 / half[0] ** 2)  # of the side it is of


def test_a_gpu_is_measured_with_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def time_steps(_job: Any, _shape: Any, batch: int, *_rest: Any) -> dict[str, StepTime]:
        tried.append(batch)
        return {"32-true": StepTime(train=0.02, predict=0.01)}

    monkeypatch.setattr(facts, "time_steps", time_steps)
    probe_speed(JOB, FACTS, 10.0)
    on_gpu = replace(JOB, accelerator="cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    for job in (on_gpu, replace(on_gpu, micro_batch_size=1)):
        probe_speed(job, FACTS, 10.0)
    assert tried == [2, 4, 1]


def test_the_warm_up_of_a_gpu_is_no_measurement() -> None:
    assert [is_needed(n, "cpu", known=n > 0) for n in range(3)] == [True, False, False]
    assert [is_needed(n, "cuda", known=n > 0) for n in range(3)] == [True, True, False]


def test_no_memory_for_the_smallest_step_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TrainingError, match="Memory is too short for one training step on a picture of 64 x 64"
    ):
        speed(monkeypatch, MemoryError(), 0)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        speed(monkeypatch, OTHER, 0)


def test_a_second_score_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(error: Exception) -> Any:
        def make(_job: Any) -> Any:
            raise error

        return make

    job = replace(JOB, accelerator="cpu")
    for error in SHORT:
        monkeypatch.setattr(average, "make_segmenter", fails(error))
        assert score_model(job, Hooks()) is None
    assert caplog.text.count("Out of memory while scoring") == len(SHORT)
    monkeypatch.setattr(average, "make_segmenter", fails(OTHER))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        score_model(job, Hooks())


def test_a_model_is_stored_without_its_probe(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seg = tiny(tmp_path / "m").fit(textures, **NO_SEARCH)
    for number, error in enumerate(SHORT):

        def starved(_segmenter: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(_store, "make_probe", starved)
        folder = seg.save(tmp_path / f"copy_{number}")
        assert "without the output that loading checks" in caplog.text
        assert read_model(folder).probe is None
        again = seg.load(folder, verbosity=0)
        assert all(
            (a == b).all() for a, b in zip(again.predict(textures), seg.predict(textures), strict=True)
        )
        caplog.clear()
