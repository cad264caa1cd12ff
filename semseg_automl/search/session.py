"""What the parts of a search share: the request, the plan, the clock, the files, the outcome."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.planner import Plan
from semseg_automl.search.request import FitRequest
from semseg_automl.search.run_folder import RunFolder
from semseg_automl.search.study import MAIN
from semseg_automl.search.trial import Attempt
from semseg_automl.training.checkpoint import spent_seconds
from semseg_automl.training.job import Hooks, TrainJob


@dataclass(frozen=True, kw_only=True)
class Session:
    """One process's part in a search. ``job`` is in the plan's configuration, on all devices.

    ``worker`` is this process's name; ``look()`` is called after each training step, to see how the others
    do; ``leaving()``: whether this process leaves a search that others go on with.
    """

    request: FitRequest
    job: TrainJob
    budget: Budget
    stop: Interrupt
    files: RunFolder
    outcome: Outcome
    on_best: Callable[[Outcome], None]
    progress: Callable[[Mapping[str, Any]], None]
    worker: str = MAIN
    look: Callable[[], None] = lambda: None
    leaving: Callable[[], bool] = lambda: False
    _end: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._end.is_set()

    def end(self) -> None:
        """Start no further trial: a callback asked for it."""
        self._end.set()

    @property
    def plan(self) -> Plan:
        """What was planned."""
        return self.outcome.plan

    def job_of(self, config: RunConfig) -> TrainJob:
        """The job in the configuration of a trial, which may have epochs of its own."""
        return replace(self.job, config=config, max_steps=None if self.plan.own_steps else self.job.max_steps)

    def safe_seconds(self, name: str) -> float:
        """Seconds of a model's training that are on disk; 0 where there are none that can be read."""
        path = self.files.checkpoint(name)
        with contextlib.suppress(ArtifactError):
            return 0.0 if path is None else spent_seconds(path) or 0.0
        return 0.0

    def left(self) -> float:
        """Seconds until what is kept for storing begins."""
        return self.budget.remaining() - self.plan.reserve

    def val_seconds(self) -> float:
        """What a validation takes by the best model's; 0 before there is one."""
        best, val = self.outcome.best, self.job.val
        return 0.0 if best is None or val is None else best.predict_seconds * len(val)

    def hooks(
        self, name: str, seconds: float, *, reserve: float = 0.0, report: Callable[[int, float], bool] | None
    ) -> Hooks:
        """How a model is trained for ``seconds`` that end ``reserve`` before :meth:`left` does.

        A validation that these seconds end in goes on, so that all trials are compared on all pictures.
        """

        def tell(event: Mapping[str, float]) -> None:
            if self.worker == MAIN:
                self.files.tick(self.budget.elapsed())
            self.look()
            best = self.outcome.best
            overall = {"models": len(self.outcome.rows), "best": math.nan if best is None else best.score}
            self.progress({"model": name, "time_left": self.budget.remaining(), **overall, **event})

        return Hooks(
            remaining=self.budget.slice(seconds, self.plan.reserve + reserve),
            until=self.budget.slice(math.inf, self.plan.reserve + reserve),
            report=report or (lambda _step, _score: False),
            stop_requested=self.stop,
            urgent=lambda: self.stop.urgent,
            progress=tell,
        )

    def add(self, name: str, config: RunConfig, attempt: Attempt) -> None:
        """Record a model, and store it if it is the best so far."""
        if attempt.result is not None:
            self.outcome.follow(attempt.result, self.budget.elapsed())
        if self.outcome.add(name, config, attempt):
            self.on_best(self.outcome)
