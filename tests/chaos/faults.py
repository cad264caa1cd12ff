"""Faults that come at a random moment of a fit, each a function that sets its trap and says what it did."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from semseg_automl.data import dataset, images
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.module import SegmentationModule

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch, pd.DataFrame, random.Random], str]
LONG = 10**6


def full_disk(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """From one write on, for a few writes or for good, nothing can be flushed or put in place."""
    first, length = rng.randrange(1, 12), rng.choice((1, 3, LONG))
    calls = itertools.count()
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def fails(*args: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
            if first <= next(calls) < first + length:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        monkeypatch.setattr(os, name, fails)
    return f"disk full from write {first} on, {length} times"


def short_files(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """No file, whoever writes it, may grow beyond a size: writes of it are cut off by the system."""
    import resource

    size = int(10 ** rng.uniform(2, 5.5))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    _at_undo(monkeypatch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))
    return f"no file above {size} bytes"


def _at_undo(monkeypatch: Patch, restore: Callable[[], None]) -> None:
    """Let a context of ``monkeypatch`` call ``restore`` when it ends."""
    real = monkeypatch.undo

    def undo() -> None:
        restore()
        real()

    monkeypatch.undo = undo  # type: ignore[method-assign]


def lost_picture(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """A picture or a mask is removed, or cut in the middle, while another is read; no cache helps."""
    monkeypatch.setattr(dataset, "_cache_size", lambda: 0)
    victim, moment = Path(rng.choice([*table["image"], *table["label"]])), rng.randrange(1, 60)
    cut, calls, real = rng.random() < 0.5, itertools.count(), images.read_seen

    def read(source: Any, scaling: Any = None) -> np.ndarray:
        if next(calls) == moment:
            data = victim.read_bytes()
            victim.unlink()
            if cut:
                victim.write_bytes(data[: len(data) // 2])
        return real(source, scaling)

    monkeypatch.setattr(dataset, "read_seen", read)
    return f"{victim.parent.name}/{victim.name} {'cut' if cut else 'removed'} at reading {moment}"


def nan(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """The network answers NaN in some passes, or from one pass on."""
    first, length = rng.randrange(0, 25), rng.choice((1, 4, LONG))
    calls = itertools.count()

    def spoilt(logits: torch.Tensor) -> torch.Tensor:
        return logits * torch.nan if first <= next(calls) < first + length else logits

    _wrap_network(monkeypatch, spoilt)
    return f"NaN from pass {first} on, {length} times"


def out_of_memory(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """Some passes find no memory, in the words of CUDA, of torch on the CPU, or of Python."""
    first, length = rng.randrange(0, 25), rng.choice((1, 4, LONG))
    error = rng.choice(
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            MemoryError(),
        )
    )
    calls = itertools.count()

    def starved(logits: torch.Tensor) -> torch.Tensor:
        if first <= next(calls) < first + length:
            raise error
        return logits

    _wrap_network(monkeypatch, starved)
    return f"{type(error).__name__} from pass {first} on, {length} times"


def _wrap_network(monkeypatch: Patch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for name in ("forward", "forward_stem"):
        real = getattr(Segmenter, name)

        def wrapped(self: Segmenter, x: torch.Tensor, real: Callable[..., Any] = real) -> torch.Tensor:
            return change(real(self, x))

        monkeypatch.setattr(Segmenter, name, wrapped)


def killed_reader(monkeypatch: Patch, table: pd.DataFrame, rng: random.Random) -> str:
    """A process that reads pictures is killed at a random step, by the system or by a signal to all."""
    moment, number = rng.randrange(0, 8), rng.choice((signal.SIGKILL, signal.SIGBUS, signal.SIGTERM))
    calls, real = itertools.count(), SegmentationModule.training_step

    def step(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if next(calls) == moment:
            os.kill(rng.choice(multiprocessing.active_children()).pid or 0, number)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    return f"a reader killed by {number.name} at step {moment}"


FAULTS: tuple[Fault, ...] = (full_disk, lost_picture, nan, out_of_memory)
if sys.platform != "win32":  # which has no such signals and limits
    FAULTS = (*FAULTS, killed_reader, short_files)
