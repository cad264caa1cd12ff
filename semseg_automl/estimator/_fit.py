"""The steps of ``fit``: tables, weights, search, artifact. One clock from the first line."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow
from semseg_automl.engines.local import ENGINES
from semseg_automl.estimator import _store
from semseg_automl.estimator._resolve import find_preset, resolve_request
from semseg_automl.estimator._tables import Tables, prepare_tables
from semseg_automl.estimator.baseline import majority_row
from semseg_automl.metrics.registry import resolve_metric
from semseg_automl.models.checkpoints import ResolvedWeights, resolve_weights
from semseg_automl.models.devices import DeviceChoice, pick_devices
from semseg_automl.search.budget import Budget, catch_interrupt
from semseg_automl.search.facts import fingerprint
from semseg_automl.search.planner import DEFAULT_SEARCH_SECONDS
from semseg_automl.search.progress import progress_bar
from semseg_automl.search.request import FitRequest
from semseg_automl.search.run import Outcome
from semseg_automl.training.job import TrainJob

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_LOG = get_logger("estimator")
_DEFAULT_BACKBONE = "mobile_sam"


@dataclass(frozen=True, kw_only=True)
class FitArguments:
    """What the user passed to ``fit``, unchecked."""

    train_data: Any
    y: Any
    tuning_data: Any
    time_limit: float | None
    presets: str | None
    hyperparameters: Any
    tune_kwargs: Any
    groups: Any
    holdout_frac: float | None
    engine: str
    devices: Any
    num_workers: int | str
    storage: str | None
    resume: bool
    init_from: Any
    callbacks: Any
    started: float


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit leaves behind."""

    model: _store.Trained
    folder: Path
    rows: list[ModelRow]
    summary: dict[str, Any]
    score: float
    study: Any


def fit_segmentor(seg: SemanticSegmentor, args: FitArguments) -> Fitted:
    """Run a whole fit; see ``SemanticSegmentor.fit``."""
    budget = Budget(_time_limit(args), started=args.started)
    imported = budget.elapsed()
    if args.engine not in ENGINES:
        raise ConfigError(f"engine={args.engine!r} is not known. Known: {', '.join(ENGINES)}.")
    find_preset(args.presets)
    tables = prepare_tables(
        args.train_data,
        args.y,
        args.tuning_data,
        image=seg.image,
        label=seg.label,
        classes=seg.classes,
        problem_type=seg.problem_type,
        ignore_index=seg.ignore_index,
        groups=args.groups,
        holdout_frac=args.holdout_frac,
        seed=seg.random_state,
    )
    metric = resolve_metric(seg.eval_metric, tables.label_map.problem_type).name
    backbone = _DEFAULT_BACKBONE if seg.backbone == "auto" else seg.backbone
    folder = _store.choose_folder(seg.path, resume=args.resume, is_clone=getattr(seg, "_is_clone", False))
    weights = resolve_weights(backbone)
    request = resolve_request(
        presets=args.presets,
        hyperparameters=args.hyperparameters,
        tune_kwargs=args.tune_kwargs,
        time_limit=budget.limit,
        backbone=weights.name,
        eval_metric=metric,
        devices=args.devices,
        num_workers=args.num_workers,
        seed=seg.random_state,
        verbosity=seg.verbosity,
        storage=args.storage,
        folder=folder,
        callbacks=args.callbacks,
    )
    request, init = _start_from(args, folder, tables, request, weights.name)
    devices = pick_devices(args.devices)
    job = _job(request, tables, weights, devices, metric, init)
    prepared = budget.elapsed() - imported
    _LOG.info(
        "Model folder: %s. Backbone: %s (%s). Device: %s.", folder, weights.name, weights.source, devices
    )
    keeper = _Keeper(seg, folder, tables, weights, request, metric)
    with catch_interrupt() as stop, progress_bar(request.verbosity >= 2, budget) as progress:
        outcome = ENGINES[args.engine].run(
            request,
            job,
            fingerprint(tables.train, tables.val, tables.label_map, tables.scan),
            budget,
            stop,
            on_best=keeper.keep,
            progress=progress,
        )
    if stop.requested:
        _LOG.warning("Interrupted: the best model so far is kept in %s.", folder)
    return keeper.close(outcome, {"import": imported, "prepare": prepared}, budget.elapsed())


def _time_limit(args: FitArguments) -> float | None:
    """The limit; a search without one gets a stated default."""
    searches = args.tune_kwargs not in (None, "auto") and not dict(args.tune_kwargs).get("num_trials")
    auto = args.tune_kwargs == "auto" and "max_epochs" not in (args.hyperparameters or {})
    if args.time_limit is None and (searches or (auto and find_preset(args.presets)[1].search)):
        _LOG.info(
            "No time_limit given: searching for %.0f s. Pass time_limit= or hyperparameter_tune_kwargs=None.",
            DEFAULT_SEARCH_SECONDS,
        )
        return DEFAULT_SEARCH_SECONDS
    return args.time_limit


def _start_from(
    args: FitArguments, folder: Path, tables: Tables, request: FitRequest, backbone: str
) -> tuple[FitRequest, Any]:
    """Tensors to start from (``init_from``, or the model in ``path`` with ``resume``) and the request that fits."""
    source = args.init_from
    if source is None and args.resume and _store.holds_model(folder):
        source = folder
    if source is None:
        return request, None
    init, config = _store.initial_state(source, tables.label_map, request.config, backbone)
    structural = frozenset(vars(config.adapter)) | {"head", "num_queries"}
    spaces = {name: space for name, space in request.spaces.items() if name not in structural}
    return replace(request, config=config, given=request.given | structural, spaces=spaces), init


def _job(
    request: FitRequest,
    tables: Tables,
    weights: ResolvedWeights,
    devices: DeviceChoice,
    metric: str,
    init: Any,
) -> TrainJob:
    workers = request.num_workers
    if workers == "auto":
        workers = 0 if devices.kind == "cpu" else 4
    if not isinstance(workers, int) or workers < 0:
        raise ConfigError(
            f"num_workers must be 'auto' or a number of at least 0, got {request.num_workers!r}."
        )
    return TrainJob(
        config=request.config,
        label_map=tables.label_map,
        train=tables.train,
        val=tables.val,
        weights=weights,
        eval_metric=metric,
        scaling=tables.scaling,
        accelerator=devices.kind,
        device_ids=devices.ids,
        num_workers=workers,
        seed=request.seed,
        init=init,
    )


class _Keeper:
    """Writes every better model into the folder while the search goes on, and the summary at the end."""

    def __init__(
        self,
        seg: SemanticSegmentor,
        folder: Path,
        tables: Tables,
        weights: ResolvedWeights,
        request: FitRequest,
        metric: str,
    ) -> None:
        self.folder, self.tables, self.weights, self.request, self.metric = (
            folder,
            tables,
            weights,
            request,
            metric,
        )
        self.model: _store.Trained | None = None
        self.seconds = 0.0

    def keep(self, outcome: Outcome) -> None:
        """Store the outcome's best model."""
        started = time.perf_counter()
        best = outcome.best
        if best is None or outcome.best_config is None:
            return
        info = {
            "eval_metric": self.metric,
            "score_val": best.score,
            "n_train": len(self.tables.train),
            "n_val": len(self.tables.val),
            "preset": self.request.preset,
            "tta": find_preset(self.request.preset)[1].tta,
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

    def close(self, outcome: Outcome, before: dict[str, float], total: float) -> Fitted:
        """Add the baseline, write the summary and answer."""
        best, model = outcome.best, self.model
        if best is None or model is None:
            raise ConfigError("The search ended without a model.")
        rows = [
            *outcome.rows,
            majority_row(self.tables.val, self.tables.label_map, self.tables.scan, self.metric),
        ]
        training = sum(r.fit_time for r in outcome.rows)
        summary = {
            "plan": list(outcome.plan.reasons),
            "best_model": outcome.best_name,
            "eval_metric": self.metric,
            "score_val": best.score,
            "metrics_val": dict(best.metrics),
            "threshold": best.threshold,
            "state": best.state,
            "steps": best.steps,
            "epochs": best.epochs,
            "precision": outcome.plan.precision,
            "history": [list(h) for h in best.history],
            "n_models": len(outcome.rows),
            "parameters": {"trainable": best.n_trainable},
            "seconds": {
                "total": total,
                **before,
                "training_and_validation": training,
                "steps_and_validation": outcome.step_seconds,
                "store": self.seconds,
                **outcome.seconds,
            },
        }
        self._warn(outcome)
        _store.write_summary(self.folder, rows, summary)
        _LOG.info(
            "Best model: %s, %s %.4f on validation, %.0f s in all. Stored in %s.",
            outcome.best_name,
            self.metric,
            best.score,
            total,
            self.folder,
        )
        return Fitted(
            model=model, folder=self.folder, rows=rows, summary=summary, score=best.score, study=outcome.study
        )

    def _warn(self, outcome: Outcome) -> None:
        missed = outcome.best.never_predicted if outcome.best else ()
        if missed:
            names = ", ".join(self.tables.label_map.names[k] for k in missed)
            _LOG.warning(
                "Never predicted on the validation pictures: %s. More time, or more pictures of them, "
                "may help.",
                names,
            )
