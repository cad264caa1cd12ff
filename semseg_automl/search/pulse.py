"""Signs of life in files: how processes that share a folder, and maybe nothing else, notice that one is gone.

Nothing here compares the clocks of two machines: a process is alive as long as its file changes between
looks, and it is the looks that are counted, so that machines that sleep for a while lose nobody.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from semseg_automl.training.job_files import replace_text

BEAT_SECONDS = 1.0
PATIENCE = 20
"""Looks, a beat apart, at a file that does not change before its process is taken for gone."""


class Pulse:
    """Writes a sign of life every second while the block runs: ``facts()`` and a number that goes up."""

    def __init__(self, path: Path, facts: Callable[[], dict[str, Any]]) -> None:
        self._path, self._facts = path, facts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._number = 0

    def __enter__(self) -> Pulse:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Write one sign of life; on a full disk it is left out."""
        self._number += 1
        with contextlib.suppress(OSError):
            replace_text(self._path, json.dumps({"beat": self._number, **self._facts()}))

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.beat()


class Listener:
    """Watches another process's file; :meth:`alive` is to be asked about once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: dict[str, Any] | None = None
        self._unchanged = 0
        self._looked = -BEAT_SECONDS

    def alive(self) -> bool:
        """Whether the file has changed within the latest ``PATIENCE`` looks.

        Looks less than a beat after the last one are not counted.
        """
        now = time.monotonic()
        if now - self._looked >= BEAT_SECONDS:
            self._looked = now
            found = read_beat(self.path)
            self._unchanged = 0 if found is not None and found != self._last else self._unchanged + 1
            self._last = found or self._last
        return self._unchanged < PATIENCE

    @property
    def facts(self) -> dict[str, Any]:
        """What the process said last; empty before the first look."""
        return self._last or {}


def read_beat(path: Path) -> dict[str, Any] | None:
    """A sign of life as it was written; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def wait_for_beat(path: Path, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
    """The next sign of life, within a fifth of a second of when it was written; None if none comes."""
    before = read_beat(path)
    for _look in range(int(5 * PATIENCE * BEAT_SECONDS)):
        if stop():
            return None
        time.sleep(0.2)
        found = read_beat(path)
        if found is not None and found != before:
            return found
    return None
