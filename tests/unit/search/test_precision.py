"""In which precision is trained: by the time of real steps or, without a limit, by what the device can do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from semseg_automl.search import facts
from semseg_automl.search.facts import probe_speed
from semseg_automl.training.probe import StepTime, matmul_ratio
from tests.unit.search.test_planner import FACTS
from tests.unit.search.test_trial import JOB

NATIVE, EMULATED, NO_GAIN = (0.9, 0.5), (30.0, 30.0), (1.3, 1.1)  # ratios of a small and of a large product


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    remaining: float,
    ratios: tuple[float, float],
    seconds: dict[str, float],
    accelerator: str = "cpu",
) -> str:
    """The precision that is planned with where steps take these ``seconds``."""

    def time_steps(*arguments: Any) -> dict[str, StepTime]:
        asked: Sequence[str] = arguments[3]
        return {name: StepTime(train=seconds[name], predict=seconds[name]) for name in asked}

    monkeypatch.setattr(facts, "time_steps", time_steps)
    monkeypatch.setattr(facts, "matmul_ratio", lambda *_a, large=False: ratios[large])
    probe = probe_speed(replace(JOB, accelerator=accelerator), FACTS, remaining)
    assert probe.train_seconds_per_mpx * probe_side(remaining) ** 2 / 1e6 == pytest.approx(
        seconds[probe.precision]
    )
    return probe.precision


def probe_side(remaining: float) -> int:
    return min(facts.natural_side(FACTS), next(s for t, s in facts._PROBE_SIDES if remaining > t))


FASTER, SLOWER = {"32-true": 1.0, "bf16-mixed": 0.5}, {"32-true": 1.0, "bf16-mixed": 1.5}


@pytest.mark.parametrize("seconds", [FASTER, SLOWER], ids=["faster", "slower"])
@pytest.mark.parametrize(
    ("ratios", "precision"), [(NATIVE, "bf16-mixed"), (EMULATED, "32-true"), (NO_GAIN, "32-true")]
)
def test_without_a_limit_the_clock_decides_nothing(
    ratios: tuple[float, float], precision: str, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(monkeypatch, math.inf, ratios, seconds) == precision


def test_with_a_limit_the_faster_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 600.0, NATIVE, FASTER) == "bf16-mixed"
    assert chosen(monkeypatch, 600.0, NATIVE, SLOWER) == "32-true"
    assert chosen(monkeypatch, 600.0, NATIVE, {"32-true": 1.0, "bf16-mixed": 0.95}) == "32-true"
    assert chosen(monkeypatch, 600.0, NO_GAIN, FASTER) == "bf16-mixed"
    assert chosen(monkeypatch, 600.0, EMULATED, FASTER) == "32-true"
    assert chosen(monkeypatch, 10.0, NATIVE, FASTER) == "32-true"  # no time to measure two
    assert chosen(monkeypatch, 600.0, NATIVE, FASTER, "mps") == "32-true"


def test_the_ratio_is_of_times() -> None:
    assert 0.2 < matmul_ratio(torch.device("cpu"), torch.float32) < 5.0
    assert matmul_ratio(torch.device("cpu"), torch.float64, large=True) > 1.0  # twice the bytes
