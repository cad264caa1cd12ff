"""One of several processes that train one model: ``python -m semseg_automl.training.worker JOB_FOLDER``.

Started by ``launch``, never by hand. Heavy imports come after the watch on the parent, so that a
process whose parent died ends at once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from semseg_automl.core.log import LOGGER_NAME
from semseg_automl.core.processes import end_with_parent

_PROGRESS_SECONDS = 0.2


class EventLog(logging.Handler):
    """A process's way to talk to the one that started it: progress, scores, log records; a JSON line each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._stream: IO[str] = path.open("a", encoding="utf-8")
        self._told = -math.inf

    def write(self, kind: str, **values: Any) -> None:
        """Append one event."""
        self._stream.write(json.dumps({"kind": kind, **values}) + "\n")
        self._stream.flush()

    def progress(self, event: Mapping[str, float]) -> None:
        """Append a progress event, at most five a second."""
        now = time.perf_counter()
        if now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            self.write("progress", event=dict(event))

    def emit(self, record: logging.LogRecord) -> None:
        """Append a log record."""
        self.write("log", name=record.name, level=record.levelno, message=record.getMessage())


def main(folder: Path, rank: int, world: int) -> int:
    """Train as process ``rank`` of ``world``; returns the exit status. Errors are left in the folder."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent gets them, too, and asks for a stop
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        _work(folder, rank, world)
    except Exception as error:
        traceback.print_exc()
        _leave_error(folder, rank, error)
        return 1
    return 0


def _work(folder: Path, rank: int, world: int) -> None:
    from semseg_automl.training.fit import train_rank
    from semseg_automl.training.job import Hooks
    from semseg_automl.training.job_files import (
        EVENTS,
        INTERRUPTED,
        PRUNED,
        URGENT,
        read_order,
        write_result,
    )

    order = read_order(folder)
    _limit_threads()
    hooks = Hooks()
    if rank == 0:
        log = EventLog(folder / EVENTS)
        logger = logging.getLogger(LOGGER_NAME)
        logger.setLevel(order.log_level)
        logger.addHandler(log)
        stop = _stop_reader(folder)

        def report(step: int, score: float) -> bool:
            log.write("report", step=step, score=score)
            return stop() == PRUNED

        hooks = Hooks(
            remaining=lambda: order.deadline - time.time(),
            report=report,
            stop_requested=lambda: stop() in (INTERRUPTED, URGENT),
            urgent=lambda: stop() == URGENT,
            progress=log.progress,
        )
    result = train_rank(order.job, hooks, rank=rank, world=world)
    if result is not None:
        write_result(result, folder)


def _limit_threads() -> None:
    """This process's share of the cores, which the launcher put where OpenMP looks for it."""
    import torch

    torch.set_num_threads(max(1, int(os.environ["OMP_NUM_THREADS"])))


def _stop_reader(folder: Path) -> Callable[[], str]:
    """What the parent wrote into the stop file; empty where there is none."""
    from semseg_automl.training.job_files import STOP

    def read() -> str:
        try:
            return (folder / STOP).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    return read


def _leave_error(folder: Path, rank: int, error: Exception) -> None:
    from semseg_automl.training.job_files import ERROR, replace_text

    cause = error.__cause__
    values = {
        "type": type(error).__name__,
        "message": str(error),
        "cause": None if cause is None else type(cause).__name__,
        "time": time.time(),
    }
    replace_text(folder / ERROR.format(rank), json.dumps(values))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])))
