"""One bar: silent where nobody looks; the best of all models; messages above it, not through it."""

from __future__ import annotations

import io
import logging
import sys
import time

import pytest

from semseg_automl.core.log import LOGGER_NAME, verbosity
from semseg_automl.search.budget import Budget
from semseg_automl.search.progress import phase, progress_bar


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def budget() -> Budget:
    clock = iter(range(1000))
    return Budget(100, now=lambda: float(next(clock)))


def event(model: str, step: int, score: float, left: float = 65.0) -> dict[str, object]:
    return {"model": model, "step": step, "score": score, "loss": 0.25, "time_left": left, "fraction": 0.5}


def test_one_bar_tells_phase_model_best_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_bar(True, budget()) as progress:
        time.sleep(0.2)  # tqdm draws at most ten times a second
        progress(event("default", 3, 0.5))
        progress(event("trial_1", 1, float("nan")))
    first, *shown = screen.getvalue().replace("\n", "").split("\r")[1:]
    assert first.startswith("plan   0%")
    assert any("train default" in s and "step 3" in s and "best 0.5000" in s for s in shown)
    last = shown[-1]
    assert last.startswith("train trial_1") and "best 0.5000" in last, "the best of all models"
    assert "1:05 left" in last and "loss 0.250" in last
    assert screen.getvalue().count("\n") == 1, "one line on the screen, at the end"


def test_messages_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    logger = logging.getLogger(LOGGER_NAME)
    monkeypatch.setattr(logger, "propagate", False)  # pytest's handlers are no console
    with verbosity(2):
        before = list(logger.handlers)
        with progress_bar(True, budget()) as progress:
            progress(event("default", 3, 0.5))
            logger.info("a message")
        assert logger.handlers == before
    lines = [line.split("\r")[-1].strip() for line in screen.getvalue().split("\n")]
    assert "a message" in lines, lines


@pytest.mark.parametrize(("shown", "terminal"), [(False, True), (True, False)])
def test_silent_where_nobody_looks(shown: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress_bar(shown, budget()) as progress:
        progress(event("default", 3, 0.5))
    assert screen.getvalue() == ""


def test_phases() -> None:
    assert [phase(m) for m in ("", "default", "trial_2", "finish")] == [
        "",
        "train default",
        "train trial_2",
        "finish",
    ]
