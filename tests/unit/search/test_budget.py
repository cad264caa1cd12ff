"""One clock with an injected time source, and Ctrl-C as a request."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading

import pytest

from semseg_automl.core.errors import ConfigError
from semseg_automl.search.budget import Budget, Interrupt, catch_interrupt


class Clock:
    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_counts_from_the_given_start() -> None:
    clock = Clock()
    budget = Budget(10.0, clock, started=97.0)
    assert budget.elapsed() == 3.0 and budget.remaining() == 7.0
    clock.now += 5
    assert budget.elapsed() == 8.0 and budget.remaining() == 2.0
    clock.now += 50
    assert budget.remaining() == 0.0  # never below
    assert Budget(10.0, clock).elapsed() == 0.0


def test_without_a_limit_time_never_runs_out() -> None:
    budget = Budget(None, Clock())
    assert budget.limit == budget.remaining() == math.inf
    assert budget.slice(math.inf)() == math.inf
    assert budget.slice(5.0)() == 5.0


@pytest.mark.parametrize(
    ("seconds", "reserve", "after", "left"),
    [
        (4.0, 0.0, 0.0, 4.0),  # the slice is shorter than what is left
        (4.0, 0.0, 3.0, 1.0),
        (math.inf, 1.0, 2.0, 7.0),  # the limit less the reserve
        (9.5, 1.0, 2.0, 7.0),
        (4.0, 0.0, 6.0, -2.0),  # overrun is told
        (20.0, 1.0, 12.0, -3.0),
    ],
)
def test_a_slice_ends_with_itself_or_before_the_limit(
    seconds: float, reserve: float, after: float, left: float
) -> None:
    clock = Clock()
    remaining = Budget(10.0, clock).slice(seconds, reserve)
    clock.now += after
    assert remaining() == pytest.approx(left)


@pytest.mark.parametrize("limit", [0, -1, 0.0, math.nan, "60", True, [5]])
def test_wrong_limits_are_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="time_limit must be a positive number of seconds or None"):
        Budget(limit)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that one process can send another")
def test_first_ctrl_c_is_a_request_the_second_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), catch_interrupt() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() and stop.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_changed() -> None:
    found: list[object] = []

    def run() -> None:
        with catch_interrupt() as stop:
            found.extend([stop, signal.getsignal(signal.SIGINT)])

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(found[0], Interrupt) and found[1] is before
