"""Which device the work runs on, how a CPU process is prepared, and what memory it took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.hardware import read_meminfo, usable_cores

KINDS = ("cuda", "mps", "cpu")
Devices = int | str | Sequence[int]


@dataclass(frozen=True)
class DeviceChoice:
    """``kind`` ("cuda", "mps" or "cpu") and the devices' indices; on a CPU one index per process."""

    kind: str
    ids: tuple[int, ...] = (0,)

    @property
    def count(self) -> int:
        """Number of devices (on a CPU, of processes)."""
        return len(self.ids)

    def torch_device(self, position: int = 0) -> torch.device:
        """The torch device at a position of ``ids``."""
        return torch.device("cuda", self.ids[position]) if self.kind == "cuda" else torch.device(self.kind)

    def __str__(self) -> str:
        return (
            f"{self.kind}:{','.join(map(str, self.ids))}"
            if self.kind == "cuda" or self.count > 1
            else self.kind
        )


def pick_devices(devices: Devices = "auto") -> DeviceChoice:
    """Resolve the ``devices`` argument.

    Parameters
    ----------
    devices
        "auto": every CUDA device, else MPS, else one CPU process. An int n: n devices of that
        best kind (n processes on a CPU). "cuda", "cuda:1", "cuda:0,2", "mps", "cpu", or "cpu:2"
        for two CPU processes. A list of ints: these CUDA devices.

    Raises
    ------
    ConfigError
        Not of this form, or the device is not there.
    """
    kind = _best_kind()
    if isinstance(devices, str) and devices != "auto":
        return _from_name(devices)
    if devices == "auto":
        everything: Sequence[int] = range(torch.cuda.device_count()) if kind == "cuda" else (0,)
        return _checked(kind, everything, devices)
    if isinstance(devices, int) and not isinstance(devices, bool):
        if devices < 1:
            raise _wrong(devices, "a number of devices must be at least 1")
        return _checked(kind, range(devices), devices)
    if (
        isinstance(devices, Sequence)
        and not isinstance(devices, str)
        and devices
        and all(type(i) is int for i in devices)
    ):
        return _checked("cuda", devices, devices)
    raise _wrong(devices, "it must be 'auto', a number, a name or a list of CUDA indices")


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _from_name(name: str) -> DeviceChoice:
    kind, _, rest = name.lower().partition(":")
    if kind not in KINDS or (rest and not all(part.strip().isdigit() for part in rest.split(","))):
        raise _wrong(name, "a name must be cuda, cuda:0,1, mps, cpu or cpu:2")
    numbers = [int(part) for part in rest.split(",")] if rest else []
    if kind == "cpu":
        return _checked("cpu", range(numbers[0] if numbers else 1), name)
    if kind == "cuda" and not numbers:
        numbers = list(range(torch.cuda.device_count()))
    return _checked(kind, numbers or (0,), name)


def _checked(kind: str, ids: Sequence[int], asked: object) -> DeviceChoice:
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    there = counts.get(kind, sys.maxsize)
    if not ids or len(set(ids)) != len(ids) or not all(0 <= i < there for i in ids):
        has = f"{there} {kind} device(s)" if kind != "cpu" else "at least one process is needed"
        raise _wrong(asked, f"this machine has {has}")
    return DeviceChoice(kind, tuple(ids))


def _wrong(devices: object, rule: str) -> ConfigError:
    return ConfigError(f"devices={devices!r}: {rule}. Use devices='auto' to take what is there.")


def prepare_cpu(threads: int | None = None) -> None:
    """Set up this process for CPU work: threads, denormals, and keeping freed memory.

    Denormal floats are flushed to zero (they slow arithmetic tenfold and arise when gates and
    gradients die out). It holds for this thread and for those started from it later, so call this
    before any tensor work (and inside :func:`flushed_denormals` where it is to end). On Linux with
    glibc, freed blocks stay in the process instead of being returned to the system and zeroed anew at
    every step.
    """
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    torch.set_flush_denormal(True)
    keep_freed_memory()


def flushes_denormals() -> bool:
    """Whether this thread turns denormal floats into zero (torch can set it but doesn't tell)."""
    return float(torch.tensor(1e-310, dtype=torch.float64) * 1.0) == 0.0


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal floats to zero while the block (or the decorated function) runs, in this thread.

    What was set before is restored. Threads that torch starts meanwhile (its pool, on the first
    parallel work of a process) begin with the setting and keep it.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory(size: int = 1 << 30) -> bool:
    """Let glibc's malloc serve blocks up to ``size`` bytes from the heap and keep them there.

    Returns whether it took effect; elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    largest = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)  # glibc refuses a higher mmap threshold
    kept = bool(mallopt(_M_MMAP_THRESHOLD, size)) or bool(mallopt(_M_MMAP_THRESHOLD, min(size, largest)))
    return bool(mallopt(_M_TRIM_THRESHOLD, size)) and kept


def trim_freed_memory() -> bool:
    """Give the pages of freed blocks back to the system; the complement of :func:`keep_freed_memory`.

    Before version 2.38 glibc does not reuse a freed aligned block (all of torch's are) for one of its own
    size, so that a heap whose freed blocks stay grows for as long as pictures go by: about by one
    picture's probabilities each. A few ms; returns whether there was anything to give back (on glibc).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


def describe_gpus() -> list[dict[str, Any]]:
    """Index, name, memory in bytes, compute capability and bfloat16 support of each CUDA device."""
    found = []
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        found.append(
            {
                "index": i,
                "name": facts.name,
                "memory": int(facts.total_memory),
                "capability": f"{facts.major}.{facts.minor}",
                "bfloat16": facts.major >= 8,  # below, it is emulated
            }
        )
    return found


def free_memory(choice: DeviceChoice) -> int | None:
    """Bytes free on the (first) device; None where the system does not tell."""
    if choice.kind == "cuda":
        return int(torch.cuda.mem_get_info(choice.ids[0])[0])
    return read_meminfo().get("MemAvailable")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, in the words of CUDA, of torch on a CPU, or of Python."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    words = (
        "can't allocate",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "unable to find an engine",  # cuDNN, where no algorithm's workspace could be allocated
    )
    short = "out of memory" in text.lower() or any(word in text for word in words)
    return isinstance(error, RuntimeError) and short


def give_back_memory(kind: str) -> None:
    """Free what nothing refers to any more, and on CUDA what the allocator keeps, for a fresh start.

    A training that ended leaves cycles of objects behind, whose tensors live until Python looks for them.
    """
    gc.collect()
    if kind in ("cuda", "gpu"):
        torch.cuda.empty_cache()  # nothing where CUDA was never used


def default_threads(processes: int = 1) -> int:
    """Threads for each of ``processes`` that share this machine's usable cores."""
    return max(1, usable_cores() // max(1, processes))


class memory_probe:
    """Measure time and peak memory of a block: ``with memory_probe(choice) as probe: ...``.

    ``probe.seconds`` and ``probe.peak_bytes``. On CUDA the peak of the allocator; on Linux the
    process's peak resident memory while the block ran (since the process began, where the kernel
    does not allow resetting it); elsewhere None.
    """

    def __init__(self, choice: DeviceChoice) -> None:
        self.choice = choice
        self.seconds = 0.0
        self.peak_bytes: int | None = None

    def __enter__(self) -> memory_probe:
        if self.choice.kind == "cuda":
            for i in self.choice.ids:
                torch.cuda.reset_peak_memory_stats(i)
        else:
            _reset_peak()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.choice.kind == "cuda":
            for i in self.choice.ids:
                torch.cuda.synchronize(i)
            self.peak_bytes = max(torch.cuda.max_memory_allocated(i) for i in self.choice.ids)
        else:
            self.peak_bytes = peak_resident()
        self.seconds = time.perf_counter() - self._start


def peak_memory_mb(kind: str = "cpu") -> float:
    """Peak memory in MB (1e6 bytes) since :func:`restart_peak`: CUDA's allocator, or this process's; NaN if
    unknown."""
    if kind in ("cuda", "gpu") and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    peak = peak_resident()
    return math.nan if peak is None else peak / 1e6


def restart_peak(kind: str = "cpu") -> None:
    """Let :func:`peak_memory_mb` count from now on, where the system can: on CUDA, and on Linux.

    What a process has freed and kept is given back first, else it would count as in use.
    """
    if kind in ("cuda", "gpu") and torch.cuda.is_available():
        give_back_memory(kind)
        torch.cuda.reset_peak_memory_stats()
        return
    trim_freed_memory()
    _reset_peak()


def peak_resident() -> int | None:
    """Peak resident memory of this process in bytes, where Linux's /proc tells; else None."""
    return read_meminfo(Path("/proc/self/status")).get("VmHWM")


def _reset_peak() -> bool:
    """Reset the kernel's peak for this process; False where that is not possible."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")
    except OSError:
        return False
    return os.path.exists("/proc/self/status")
