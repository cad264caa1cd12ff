"""The one clock of a fit: every deadline is asked of it; its time source can be replaced in tests."""

from __future__ import annotations

import contextlib
import math
import numbers
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from semseg_automl.core.errors import ConfigError


class Budget:
    """Wall clock from the call of ``fit``.

    Parameters
    ----------
    time_limit
        Seconds for the whole call, or None for no limit.
    now
        Time source in seconds, monotonic.
    started
        The source's reading when the clock started; None: now.
    """

    def __init__(
        self,
        time_limit: float | None,
        now: Callable[[], float] = time.monotonic,
        *,
        started: float | None = None,
    ) -> None:
        if time_limit is not None and not (_is_number(time_limit) and time_limit > 0):
            raise ConfigError(f"time_limit must be a positive number of seconds or None, got {time_limit!r}.")
        self.limit = math.inf if time_limit is None else float(time_limit)
        self._now = now
        self._started = now() if started is None else started

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._started

    def remaining(self) -> float:
        """Seconds left, inf without a limit, never below 0."""
        return max(0.0, self.limit - self.elapsed())

    def slice(self, seconds: float, reserve: float = 0.0) -> Callable[[], float]:
        """A countdown of ``seconds`` from now that also ends ``reserve`` seconds before the limit."""
        end = self.elapsed() + seconds

        def left() -> float:
            now = self.elapsed()
            return min(end - now, self.limit - reserve - now)

        return left


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class Interrupt:
    """Whether a stop was asked for while :func:`catch_interrupt` was active.

    Attributes
    ----------
    requested : Ctrl-C was pressed, or SIGTERM came.
    urgent : SIGTERM came: who sends it (a cluster, a container) kills the process soon after.
    """

    def __init__(self) -> None:
        self.requested = False
        self.urgent = False

    def __call__(self) -> bool:
        return self.requested

    def deliver(self) -> None:
        """Send this process the SIGTERM that was held back, if one was: by default that ends it."""
        if self.urgent:
            self.urgent = False
            signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def catch_interrupt(flag: Interrupt | None = None) -> Iterator[Interrupt]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second Ctrl-C raises KeyboardInterrupt.

    Outside the main thread, where signals can't be caught, nothing is changed.
    """
    flag = flag or Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if flag.requested:
            raise KeyboardInterrupt
        flag.requested = True

    def hurry(_number: int, _frame: FrameType | None) -> None:
        flag.requested = flag.urgent = True

    before = {s: signal.signal(s, h) for s, h in ((signal.SIGINT, handle), (signal.SIGTERM, hurry))}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
