"""What a fit keeps on disk while it runs, and what it answers at the end."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semseg_automl.artifacts.layout import holds_model
from semseg_automl.artifacts.read import read_model
from semseg_automl.core.errors import ArtifactError, SemsegError
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.estimator import _store
from semseg_automl.estimator._manifest import expected_tensors
from semseg_automl.estimator._tables import Tables
from semseg_automl.estimator.baseline import NAME as BASELINE
from semseg_automl.estimator.baseline import majority_row
from semseg_automl.metrics.registry import score_name
from semseg_automl.models.checkpoints import ResolvedWeights
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.run_folder import RunFolder
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
        model = _store.Trained.of_stored(read_model(folder, expected_tensors))
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
    device: str = "cpu"
    earlier: Earlier | None = None
    model: _store.Trained | None = None
    seconds: float = field(default=0.0)
    score_stored: float | None = None
    in_memory_only: bool = False

    def keep(self, outcome: Outcome) -> None:
        """Store the outcome's best model."""
        started = time.perf_counter()
        best = outcome.best
        if best is None or outcome.best_config is None:
            return
        keeps = outcome.keeps_limits(best)
        if not self._replaces_earlier(best.score, keeps):
            return
        info = {
            **self.facts,
            "fit_id": uuid.uuid4().hex,
            "eval_metric": self.metric,
            "score_val": best.score,
            "keeps_limits": keeps,
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
        self._write(self.model)
        self.seconds += time.perf_counter() - started

    def verify(self, job: TrainJob, remaining: Callable[[], float], needed: float) -> None:
        """Score the stored model on the validation pictures, read from its files, if there is the time.

        In float32, as predictions are. A difference that rounding can't explain is told.
        """
        if self.model is None or self.in_memory_only or remaining() < needed:
            return
        stored = _store.Trained.of_stored(read_model(self.folder))
        job = replace(job, config=stored.config, init=stored.state, precision="32-true", checkpoint=None)
        found = score_model(job, Hooks(remaining=remaining))
        if found is None or not found.complete:
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
        folder = self._settle(rows, summary)
        _LOG.info(
            "Best model: %s, %s %.4f on validation, %.0f s in all. Stored in %s.",
            summary.get("best_model"),
            score_name(self.metric, tables.label_map.problem_type),
            model.score,
            total,
            folder,
        )
        return Fitted(model=model, folder=folder, rows=rows, summary=summary, study=outcome.study)

    def _write(self, model: _store.Trained) -> None:
        """Store a model; where that fails it is held in memory, and tried again at the end."""
        try:
            _store.write(self.folder, model)
            self.in_memory_only = False
        except ArtifactError as error:
            self.in_memory_only = True
            _LOG.warning("%s The fit goes on with the model in memory and tries again at its end.", error)

    def _settle(self, rows: list[ModelRow], summary: Mapping[str, Any]) -> Path:
        """Write what is left to write, and return the folder of the model."""
        folder = self._rescue() if self.in_memory_only else self.folder
        try:
            _store.write_summary(folder, rows, summary)
        except ArtifactError as error:
            _LOG.error("%s The model itself is not touched by this.", error)
        return folder

    def _rescue(self) -> Path:
        """Store a model that could not be stored when it was found: in its folder, else in a temporary one.

        Where that fails too, on a disk that stays full, the fit ends with the model in memory and says so.
        """
        places = (lambda: self.folder, lambda: Path(tempfile.mkdtemp(prefix="semseg_automl_rescued_")))
        for place in places:
            try:
                folder = place()
                if self.model is not None:
                    _store.write(folder, self.model)
            except OSError as error:
                _LOG.error("%s", error)
                continue
            if folder != self.folder:
                _LOG.error("The model is not in %s but in %s: move it to a safe place.", self.folder, folder)
            return folder
        _LOG.error("The model is not on disk, only in this process: make room and call save(path).")
        return self.folder

    def _replaces_earlier(self, score: float, keeps_limits: bool) -> bool:
        """Whether a model is better; first of all one that keeps the limits on memory and latency.

        A model that the summary does not speak of is of this very run, which was killed: the same again is
        no worse.
        """
        earlier = self.earlier
        if earlier is None:
            return True
        kept = bool(earlier.model.info.get("keeps_limits", True))
        if kept != keeps_limits:
            return keeps_limits
        of_this_run = earlier.summary.get("score_val") != earlier.model.score
        return _better(score, earlier.model.score) or (of_this_run and score == earlier.model.score)

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
            "device": self.device,
            "history": [list(h) for h in best.history],
            "progress": [list(point) for point in outcome.course],
            "search": outcome.table,
            "parameters": {"trainable": best.n_trainable},
            "keeps_limits": outcome.keeps_limits(best),
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


@contextlib.contextmanager
def telling_what_is_kept(folder: Path) -> Iterator[None]:
    """Add to an error that ends a fit what of it, or of an earlier run, lies in its folder."""
    try:
        yield
    except SemsegError as error:
        kept = (
            f"The best model so far is kept in {folder}"
            if holds_model(folder)
            else f"No model is kept in {folder}"
        )
        if RunFolder(folder).holds_state():
            kept += (
                ", and the state of the training: put right what is wrong, and resume=True goes on from it"
            )
        raise type(error)(f"{str(error).rstrip('.')}. {kept}.") from error


def _better(new: float, old: float) -> bool:
    """Greater, or the first score that is defined."""
    return new > old or (math.isnan(old) and not math.isnan(new))


def _numbered_name(name: str, run: int) -> str:
    return name if run == 1 else f"run{run}_{name}"


def _numbered(row: ModelRow, run: int) -> ModelRow:
    return replace(row, model=_numbered_name(row.model, run))
