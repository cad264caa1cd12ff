"""Mutate a saved model N times and load it each time; print what happened as JSON.

    python -m tests.fuzz.run COUNT SEED

A process of its own, so that its peak memory is that of loading.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ArtifactError
from tests.fuzz.mutations import MARKER, fresh_copy, mutate
from tests.small_model import picture, save_small_model

LIMIT_SECONDS, TICK = 5.0, 0.5


class _TooLong(BaseException):
    """No ``except Exception`` of the code under test may swallow it."""


class _Watch:
    """Raises in what it watches after LIMIT_SECONDS, in ticks: a process that was stopped is not blamed."""

    def __init__(self) -> None:
        self.ticks = 0
        self.works = hasattr(signal, "setitimer")
        if self.works:
            signal.signal(signal.SIGALRM, self._tick)

    def _tick(self, _signal: int, _frame: FrameType | None) -> None:
        self.ticks += 1
        if self.ticks >= LIMIT_SECONDS / TICK:
            raise _TooLong(f"more than {LIMIT_SECONDS:g} s")

    def start(self) -> None:
        self.ticks = 0
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, TICK, TICK)

    def stop(self) -> None:
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, 0)


def run(count: int, seed: int) -> dict[str, Any]:
    """Counts of outcomes, every failure in words, the slowest case in CPU seconds, the peak memory in MiB."""
    torch.set_num_threads(1)
    image, outcomes, failures, slowest = picture(), Counter[str](), [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ[MARKER] = str(root / "code-was-run")
        original = save_small_model(root / "original")
        truth = SemanticSegmentor.load(original, verbosity=0).predict(image)
        watch = _Watch()
        for number in range(count):
            folder = fresh_copy(original, root / "mutated")
            done, sealed = mutate(folder, random.Random(f"{seed}/{number}"))
            started = time.process_time()
            outcome, problem = _attempt(folder, image, truth, sealed, watch)
            slowest = max(slowest, time.process_time() - started)
            outcomes[outcome] += 1
            if Path(os.environ[MARKER]).exists():
                problem = "code was run"
                Path(os.environ[MARKER]).rmdir()
            if problem:
                failures.append(f"seed {seed}, number {number}: {done}: {problem}")
    return {
        "count": count,
        "outcomes": dict(outcomes),
        "failures": failures,
        "slowest_cpu_seconds": round(slowest, 3),
        "peak_mib": _peak(),
    }


def _attempt(
    folder: Path, image: np.ndarray, truth: np.ndarray, sealed: bool, watch: _Watch
) -> tuple[str, str]:
    """What loading and predicting came to, and what was wrong with that ("" if nothing)."""
    try:
        watch.start()
        mask = SemanticSegmentor.load(folder, verbosity=0).predict(image)
    except ArtifactError as error:
        return type(error).__name__, "" if str(error) else "an error without words"
    except _TooLong as error:
        return "hang", str(error)
    except Exception:
        return "other exception", traceback.format_exc(limit=-4)
    finally:
        watch.stop()
    if mask.shape[:2] == truth.shape and np.array_equal(mask, truth):
        return "equal masks", ""
    if sealed and mask.shape[:2] == truth.shape:
        return "another model with right checksums", ""
    return "other masks", "masks differ although no checksum was forged"


def _peak() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with what the parent process held when it started this one
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(int(sys.argv[1]), int(sys.argv[2])), indent=1) + "\n")
