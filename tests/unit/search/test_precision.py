"""In which precision is trained: by the time of real steps, but in float32 on a CPU without a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from semseg_automl.search import facts
from semseg_automl.search.facts import probe_speed
from semseg_automl.training.probe import StepTime
from tests.unit.search.test_planner import FACTS
from tests.unit.search.test_trial import JOB


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    remaining: float,
    bfloat16: float,
    *,
    native: bool = True,
    accelerator: str = "cpu",
) -> str:
    """The precision that is planned with where a step in bfloat16 takes so many times one in float32."""
    seconds = {"32-true": 1.0, "bf16-mixed": bfloat16}

    def time_steps(*arguments: Any) -> dict[str, StepTime]:
        asked: Sequence[str] = arguments[3]
        return {name: StepTime(train=seconds[name], predict=seconds[name]) for name in asked}

    monkeypatch.setattr(facts, "time_steps", time_steps)
    monkeypatch.setattr(facts, "matmul_pays", lambda *_a: native)
    probe = probe_speed(replace(JOB, accelerator=accelerator), FACTS, remaining)
    assert probe.train_seconds_per_mpx / probe.predict_seconds_per_mpx == 1.0
    return probe.precision


def test_on_a_cpu_without_a_limit_the_clock_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two fits of one seed could differ."""
    for bfloat16 in (0.3, 0.91, 1.5):
        assert chosen(monkeypatch, math.inf, bfloat16) == "32-true"


def test_with_a_limit_the_faster_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 600.0, 0.5) == "bf16-mixed"
    assert chosen(monkeypatch, 600.0, 0.95) == "32-true"
    assert chosen(monkeypatch, 600.0, 1.5) == "32-true"
    assert chosen(monkeypatch, 600.0, 0.5, native=False) == "32-true"
    assert chosen(monkeypatch, 10.0, 0.5) == "32-true"  # no time to measure two
    assert chosen(monkeypatch, 600.0, 0.5, accelerator="mps") == "32-true"


def test_a_device_without_memory_for_a_product_is_told_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a full GPU: the small product failed before the step that says so in words."""

    def full(*_arguments: Any) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(facts, "matmul_pays", full)
    assert facts._precisions(replace(JOB, accelerator="cpu"), 600.0) == ("32-true",)

    def broken(*_arguments: Any) -> bool:
        raise RuntimeError("something else")

    monkeypatch.setattr(facts, "matmul_pays", broken)
    with pytest.raises(RuntimeError, match="something else"):
        facts._precisions(replace(JOB, accelerator="cpu"), 600.0)
