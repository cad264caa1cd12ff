"""What a fit reports: one row a model, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One line of the leaderboard. Times are seconds, memory is MB (1e6 bytes), NaN where it does not apply.

    ``state``: "finished", "time" (ended by the clock), "pruned", "interrupted", "nan", "failed" or
    "baseline"; ``reason`` says why a model ended early. ``worker``: the process that trained it last, "main"
    or a helper of the search.
    """

    model: str
    score_val: float
    state: str
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    fit_time: float = math.nan
    steps: int = 0
    seconds_per_step: float = math.nan
    predict_time: float = math.nan
    n_trainable: int = 0
    peak_memory_mb: float = math.nan
    worker: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict; NaN becomes None."""
        values = dict(vars(self)) | {"config": dict(self.config)}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelRow:
        """Inverse of :meth:`to_json`."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**known)
