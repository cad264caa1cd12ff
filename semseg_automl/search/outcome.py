"""What a search ends with: one row a model, and the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.results import ModelRow
from semseg_automl.search.limits import Limits
from semseg_automl.search.planner import Plan
from semseg_automl.search.study import MAIN
from semseg_automl.search.trial import Attempt
from semseg_automl.training.checkpoint import Checkpoint, result_at
from semseg_automl.training.job import TrainResult
from semseg_automl.training.select import standard_error

FURTHER = 1.5
"""A model that was trained for so many times as long as another is kept unless its score is lower by more
than one standard error of the difference, picture by picture: the rule by which a training chooses among its
own states (``training.select``). By scores alone a search of 300 s on leaf_disease, which has ten validation
pictures, ended with a state of 49 s (0.573) and threw away what the same model was after 190 s (0.567)."""


@dataclass(kw_only=True)
class Outcome:
    """Grows while the search runs, so that an interruption loses nothing."""

    plan: Plan
    limits: Limits = field(default_factory=Limits)
    rows: list[ModelRow] = field(default_factory=list)
    best: TrainResult | None = None
    best_config: RunConfig | None = None
    best_name: str = ""
    study: Any = None
    table: list[dict[str, Any]] = field(default_factory=list)
    """The trials (``search.report``), empty without a search."""
    seconds: dict[str, float] = field(default_factory=dict)
    course: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the call of ``fit``, best score so far), a point for each improvement."""
    _worked: dict[str, float] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float:
        """Time in training and validation steps, over all models."""
        return sum(self._worked.values())

    def add(self, name: str, config: RunConfig, attempt: Attempt) -> bool:
        """Record one model of this process; returns whether it is the best so far."""
        return self.adopt(row_of(name, config, attempt), config, attempt.result)

    def adopt(
        self,
        row: ModelRow,
        config: RunConfig,
        result: TrainResult | None,
        *,
        before: float = 0.0,
        continued: bool = False,
    ) -> bool:
        """Record a model's row, in place of an earlier row of the same name, and its result.

        A model that went on and failed keeps the score that it had. One that breaks a limit says so in its
        row, and is the best only as long as none keeps them. ``before``: seconds of work in the result
        that belong to another row. ``continued``: it is the best model, trained further.
        """
        complaint = self.limits.complaint(row.peak_memory_mb, row.predict_time)
        if complaint and complaint not in row.reason:
            row = replace(row, reason=f"{row.reason}; {complaint}" if row.reason else complaint)
        number = next((i for i, known in enumerate(self.rows) if known.model == row.model), None)
        if number is None:
            self.rows.append(row)
        elif result is not None or math.isnan(self.rows[number].score_val):
            self.rows[number] = row
        if result is None:
            return False
        self._worked[row.model] = result.train_seconds + result.val_seconds - before
        went_on = continued or row.model == self.best_name
        better = self.best is None or self._replaces(result, self.best, went_on)
        if self.best is not None and row.model == self.best_name and not better and number is not None:
            self.rows[number] = replace(row, score_val=self.best.score)  # the row is of what is kept
        if better:
            self.best, self.best_config, self.best_name = result, config, row.model
        return better

    def keeps_limits(self, result: TrainResult) -> bool:
        """Whether a model takes no more memory and time than it may."""
        return self.limits.kept(result.peak_memory_mb, result.predict_seconds)

    def worked(self, name: str) -> float:
        """Seconds in a model's training and validation steps."""
        return self._worked.get(name, 0.0)

    def _replaces(self, new: TrainResult, best: TrainResult, continued: bool) -> bool:
        """Whether a model is better than the best so far: by its score if both were trained as long, else the
        one that was trained for longer unless it is surely worse."""
        ours, theirs = self._rank(new), self._rank(best)
        if ours != theirs:
            return ours > theirs
        noise = standard_error(new, best)
        if continued or _went_further(new, best):
            return new.score >= best.score - noise
        if _went_further(best, new):
            return new.score > best.score + noise
        return new.score > best.score

    def _rank(self, result: TrainResult) -> tuple[bool, bool, bool]:
        """Models in order, before their scores: those that keep the limits first, then defined scores, then
        scores of all validation pictures."""
        return self.keeps_limits(result), not math.isnan(result.score), result.complete

    def follow(self, result: TrainResult, now: float) -> None:
        """Add a result's validations, the run having ended ``now``, to the course of the best score."""
        for _step, at, score in result.history:
            if not math.isnan(score) and (not self.course or score > self.course[-1][1]):
                self.course.append((round(now - (result.seconds - at), 2), score))


def _went_further(first: TrainResult, second: TrainResult) -> bool:
    """Whether the first was trained for much longer, by the clock and by what it saw: neither slower steps
    nor smaller pictures are more training."""
    by_clock = first.seconds >= FURTHER * second.seconds
    return by_clock and first.epochs >= FURTHER * second.epochs


def row_of(name: str, config: RunConfig, attempt: Attempt, worker: str = MAIN) -> ModelRow:
    """One leaderboard row of a model that a worker trained, or failed to."""
    result = attempt.result
    if result is None:
        return ModelRow(
            model=name,
            score_val=math.nan,
            state="failed",
            reason=attempt.reason,
            config=config.to_json(),
            fit_time=attempt.seconds,
            worker=worker,
        )
    return ModelRow(
        model=name,
        score_val=result.score,
        state=result.state,
        reason=attempt.reason,
        config=config.to_json(),
        fit_time=max(attempt.seconds, result.seconds),
        steps=result.steps,
        seconds_per_step=result.seconds_per_step,
        predict_time=result.predict_seconds,
        n_trainable=result.n_trainable,
        peak_memory_mb=result.peak_memory_mb,
        worker=worker,
    )


def result_of(state: Checkpoint, row: ModelRow, n_train: int) -> TrainResult:
    """The result of a model that another process trained, from its state on disk and its row."""
    return replace(
        result_at(state, n_train, row.state),
        seconds_per_step=row.seconds_per_step,
        peak_memory_mb=row.peak_memory_mb,
        n_trainable=row.n_trainable,
    )
