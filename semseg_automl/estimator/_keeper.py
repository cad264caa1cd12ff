"""What a fit keeps on disk while it runs, and what it answers at the end."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semseg_automl.artifacts.read import read_model
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.estimator import _store
from semseg_automl.estimator._tables import Tables
from semseg_automl.estimator.baseline import NAME as BASELINE
from semseg_automl.estimator.baseline import majority_row
from semseg_automl.models.checkpoints import ResolvedWeights
from semseg_automl.search.outcome import Outcome
from semseg_automl.training.average import score_model
from semseg_automl.training.job import Hooks, TrainJob

_LOG = get_logger("estimator")
_ROUNDING = 0.01  # between bfloat16 in training and float32 in prediction


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit leaves behind."""

    model: _store.Trained
    folder: Path
    rows: list[ModelRow]
    summary: dict[str, Any]
    study: Any = None


@dataclass(frozen=True, kw_only=True)
class Earlier(Fitted):
    """What an earlier run left in the folder, for ``resume=True``."""

    @classmethod
    def read(cls, folder: Path) -> Earlier:
        """Read model, leaderboard and summary (the last two are empty after a run that was killed)."""
        rows, summary = _store.read_summary(folder)
        model = _store.Trained.of_stored(read_model(folder))
        return cls(model=model, folder=folder, rows=rows, summary=summary)

    @property
    def seconds(self) -> float:
        """Wall clock of all runs so far."""
        stored = self.summary.get("seconds", {}).get("total", self.model.info.get("fit_seconds", 0.0))
        return float(stored)

    def is_finished(self, limit: float, max_epochs: int) -> bool:
        """Whether nothing is left to do: the time is used up or, without a limit, the epochs are done."""
        if math.isfinite(limit):
            return self.seconds >= limit
        done = self.summary.get("epochs", 0.0) >= max_epochs - 1e-6
        return bool(self.summary.get("state") == "finished" and done)


@dataclass(kw_only=True)
class Keeper:
    """Writes every better model into the folder while the search goes on, and the summary at the end.

    With ``earlier``, only what is better than the earlier runs' model replaces it.
    """

    folder: Path
    tables: Tables
    weights: ResolvedWeights
    metric: str
    facts: Mapping[str, Any]
    earlier: Earlier | None = None
    model: _store.Trained | None = None
    seconds: float = field(default=0.0)
    score_stored: float | None = None

    def keep(self, outcome: Outcome) -> None:
        """Store the outcome's best model."""
        started = time.perf_counter()
        best = outcome.best
        if best is None or outcome.best_config is None:
            return
        if not self._replaces_earlier(best.score):
            return
        info = {
            **self.facts,
            "fit_id": uuid.uuid4().hex,
            "eval_metric": self.metric,
            "score_val": best.score,
            "n_train": len(self.tables.train),
            "n_val": len(self.tables.val),
            "train_pictures": PictureSizes.of(self.tables.train.sizes).to_json(),
            "fit_seconds": round(best.seconds, 1),
        }
        self.model = _store.Trained.of(
            best,
            config=outcome.best_config,
            label_map=self.tables.label_map,
            scaling=self.tables.scaling,
            weights=self.weights,
            info=info,
        )
        _store.write(self.folder, self.model)
        self.seconds += time.perf_counter() - started

    def verify(self, job: TrainJob, remaining: Callable[[], float], needed: float) -> None:
        """Score the stored model on the validation pictures, read from its files, if there is the time.

        In float32, as predictions are. A difference that rounding can't explain is told.
        """
        if self.model is None or remaining() < needed:
            return
        stored = _store.Trained.of_stored(read_model(self.folder))
        job = replace(job, config=stored.config, init=stored.state, precision="32-true", checkpoint=None)
        found = score_model(job, Hooks(remaining=remaining))
        if not found.complete:
            return
        self.score_stored = found.score
        if abs(found.score - self.model.score) > _ROUNDING:
            _LOG.warning(
                "The stored model scores %.4f on the validation pictures, %.4f when it was trained.",
                found.score,
                self.model.score,
            )

    def close(self, outcome: Outcome, before: Mapping[str, float], total: float, limit: float) -> Fitted:
        """Add the baseline, write the summary and answer."""
        number = 1 + (self.earlier.summary.get("runs", 0) if self.earlier else 0)
        rows = [*self._earlier_rows(), *(_numbered(row, number) for row in outcome.rows)]
        tables = self.tables
        rows.append(majority_row(tables.val, tables.label_map, tables.scan, self.metric))
        model = self.model or (self.earlier.model if self.earlier else None)
        if model is None:
            raise RuntimeError("a search that ended without an error has a best model")
        summary = self._summary(outcome, before, total) | {"runs": number, "n_models": len(rows) - 1}
        if self.model is None and self.earlier is not None:
            summary["best_model"] = outcome.best_name
            of_model = ("best_model", "score_val", "metrics_val", "threshold", "state", "steps", "epochs")
            summary |= {k: v for k, v in self.earlier.summary.items() if k in of_model}
        else:
            summary["best_model"] = _numbered_name(outcome.best_name, number)
        if self.score_stored is not None:
            summary["score_stored"] = self.score_stored
        self._warn(outcome, total, limit)
        _store.write_summary(self.folder, rows, summary)
        _LOG.info(
            "Best model: %s, %s %.4f on validation, %.0f s in all. Stored in %s.",
            summary.get("best_model"),
            self.metric,
            model.score,
            total,
            self.folder,
        )
        return Fitted(model=model, folder=self.folder, rows=rows, summary=summary, study=outcome.study)

    def _replaces_earlier(self, score: float) -> bool:
        """A model without a summary is of this very run, which was killed: the same again is no worse."""
        earlier = self.earlier
        return (
            earlier is None
            or _better(score, earlier.model.score)
            or (not earlier.summary and score == earlier.model.score)
        )

    def _earlier_rows(self) -> list[ModelRow]:
        return [] if self.earlier is None else [row for row in self.earlier.rows if row.model != BASELINE]

    def _summary(self, outcome: Outcome, before: Mapping[str, float], total: float) -> dict[str, Any]:
        best = outcome.best
        if best is None:
            return {}
        return {
            "plan": list(outcome.plan.reasons),
            "eval_metric": self.metric,
            "score_val": best.score,
            "metrics_val": dict(best.metrics),
            "threshold": best.threshold,
            "state": best.state,
            "steps": best.steps,
            "epochs": best.epochs,
            "precision": outcome.plan.precision,
            "history": [list(h) for h in best.history],
            "progress": [list(point) for point in outcome.course],
            "search": outcome.table,
            "parameters": {"trainable": best.n_trainable},
            "seconds": {
                "total": total,
                **before,
                "training_and_validation": sum(r.fit_time for r in outcome.rows),
                "steps_and_validation": outcome.step_seconds,
                "store": self.seconds,
                **outcome.seconds,
            },
        }

    def _warn(self, outcome: Outcome, total: float, limit: float) -> None:
        best = outcome.best
        missed = best.never_predicted if best else ()
        if missed:
            names = ", ".join(self.tables.label_map.names[k] for k in missed)
            _LOG.warning(
                "Never predicted on the validation pictures: %s. More time, or more pictures of them, "
                "may help.",
                names,
            )
        if best is not None and best.steps <= 1 and total > limit:
            _LOG.warning(
                "time_limit=%g s is less than loading, one training step and one validation take here "
                "(%.1f s): the least possible was done. Give more time.",
                limit,
                total,
            )


def _better(new: float, old: float) -> bool:
    """Greater, or the first score that is defined."""
    return new > old or (math.isnan(old) and not math.isnan(new))


def _numbered_name(name: str, run: int) -> str:
    return name if run == 1 else f"run{run}_{name}"


def _numbered(row: ModelRow, run: int) -> ModelRow:
    return replace(row, model=_numbered_name(row.model, run))
