"""What a model may take in memory and time, and by how much one takes more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semseg_automl.search.request import TuneSettings


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``max_memory`` in MB at the peak of a training, ``max_latency`` in seconds per predicted picture.

    None: no limit. What could not be measured (NaN) counts as kept.
    """

    max_memory: float | None = None
    max_latency: float | None = None

    @classmethod
    def of(cls, settings: TuneSettings | None) -> Limits:
        """The limits that a search was given."""
        if settings is None:
            return cls()
        return cls(max_memory=settings.max_memory, max_latency=settings.max_latency)

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.max_memory is not None or self.max_latency is not None

    def excess(self, memory_mb: float, seconds: float) -> tuple[float, ...]:
        """For each limit the share by which it is exceeded; kept where it is at most 0."""
        pairs = ((memory_mb, self.max_memory), (seconds, self.max_latency))
        found = [value / most - 1.0 for value, most in pairs if most is not None]
        return tuple(0.0 if math.isnan(value) else value for value in found)

    def kept(self, memory_mb: float, seconds: float) -> bool:
        """Whether no limit is exceeded."""
        return all(value <= 0.0 for value in self.excess(memory_mb, seconds))

    def complaint(self, memory_mb: float, seconds: float) -> str:
        """What is exceeded, in words; empty where nothing is."""
        parts = []
        if self.max_memory is not None and memory_mb > self.max_memory:
            parts.append(f"max_memory={self.max_memory:g} MB (takes {memory_mb:.0f})")
        if self.max_latency is not None and seconds > self.max_latency:
            parts.append(f"max_latency={self.max_latency:g} s a picture (takes {seconds:.3g})")
        return f"breaks {' and '.join(parts)}" if parts else ""
