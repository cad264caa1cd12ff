"""What the machine offers, from the standard library: cores, memory, disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Cores this process may use, memory in bytes (None where unknown), free disk in bytes."""

    cores: int
    memory: int | None
    memory_available: int | None
    disk_free: int


def usable_cores() -> int:
    """Number of cores that this process may run on (honours CPU affinity where the OS tells)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)


def read_meminfo(path: Path = Path("/proc/meminfo")) -> dict[str, int]:
    """Parse Linux's meminfo into bytes; an empty dict where there is none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) >= 2 and f[1].isdigit()}


def detect(folder: str | Path = ".") -> Hardware:
    """Measure the machine; ``folder`` decides whose disk is looked at."""
    info = read_meminfo()
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    return Hardware(
        cores=usable_cores(),
        memory=info.get("MemTotal"),
        memory_available=info.get("MemAvailable"),
        disk_free=shutil.disk_usage(existing).free,
    )
