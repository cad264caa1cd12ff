"""The steps of ``fit``: tables, weights, search, artifact. One clock from the first line."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semseg_automl.artifacts.read import require_model
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, ConfigError, SemsegError, unknown_name
from semseg_automl.core.log import get_logger
from semseg_automl.data.images import network_channels
from semseg_automl.data.labels import LabelMap
from semseg_automl.engines.local import ENGINES
from semseg_automl.estimator import _store
from semseg_automl.estimator._keeper import Earlier, Fitted, Keeper, telling_what_is_kept
from semseg_automl.estimator._lock import hold
from semseg_automl.estimator._resolve import find_preset, resolve_request
from semseg_automl.estimator._tables import Tables, prepare_tables
from semseg_automl.estimator._windows import cut_large_pictures, windows_kept_for_resuming
from semseg_automl.metrics.registry import check_metric_name, resolve_metric
from semseg_automl.models.checkpoints import ResolvedWeights, named_backbone, resolve_weights
from semseg_automl.models.choose import choose_backbone
from semseg_automl.models.devices import DeviceChoice, pick_devices
from semseg_automl.search.budget import Budget, Interrupt, catch_interrupt
from semseg_automl.search.facts import fingerprint
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.planner import DEFAULT_SEARCH_SECONDS, Fingerprint
from semseg_automl.search.progress import progress_bar
from semseg_automl.search.request import FitRequest
from semseg_automl.search.run_folder import RunFolder
from semseg_automl.training.job import TrainJob
from semseg_automl.training.loggers import FitLog, check_loggers

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_LOG = get_logger("estimator")


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
    loggers: Any
    started: float


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """What is learned, from which weights, on what, and where the model goes."""

    tables: Tables
    metric: str
    weights: ResolvedWeights
    devices: DeviceChoice
    folder: Path


def fit_segmentor(seg: SemanticSegmentor, args: FitArguments) -> Fitted:
    """Run a whole fit; see ``SemanticSegmentor.fit``."""
    imported = time.monotonic() - args.started
    request = _checked(seg, args)  # wrong arguments are told before any work is done
    budget = Budget(request.time_limit, started=args.started)
    problem = _prepare(seg, args)
    files = RunFolder(problem.folder)
    with hold(problem.folder), telling_what_is_kept(problem.folder), windows_kept_for_resuming(files):
        return _fit_into(seg, args, problem, request, budget, imported)


def _prepare(seg: SemanticSegmentor, args: FitArguments) -> _Problem:
    """Check the tables, find the weights, create the folder."""
    devices = pick_devices(args.devices)
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
        known=_known_classes(seg, args),
    )
    metric = resolve_metric(seg.eval_metric, tables.label_map.problem_type).name
    weights = resolve_weights(_backbone(seg, devices))
    folder = _store.choose_folder(seg.path, resume=args.resume, is_clone=getattr(seg, "_is_clone", False))
    _LOG.info("Device: %s.", devices)
    return _Problem(tables=tables, metric=metric, weights=weights, devices=devices, folder=folder)


def _known_classes(seg: SemanticSegmentor, args: FitArguments) -> LabelMap | None:
    """Classes of the saved model that goes on, of which a table may show a part."""
    if args.resume and seg.path is not None and _store.holds_model(seg.path):
        model = _store.read_trained(seg.path)
        return model.label_map if model.info.get("goes_on") else None
    return None if args.init_from is None else _store.read_trained(args.init_from).label_map


def _fit_into(
    seg: SemanticSegmentor,
    args: FitArguments,
    problem: _Problem,
    request: FitRequest,
    budget: Budget,
    imported: float,
) -> Fitted:
    """Search, train and store; a SIGTERM that comes meanwhile is obeyed when the model is safe."""
    folder, weights = problem.folder, problem.weights
    request = replace(
        request,
        eval_metric=problem.metric,
        folder=folder,
        config=request.config.replace(backbone=weights.name),
    )
    files = RunFolder(folder)
    earlier = _earlier(args, problem)
    epochs = request.config.optim.max_epochs
    if earlier is not None and not files.is_open and earlier.is_finished(budget.limit, epochs):
        _LOG.info("Nothing is left to do: the model in %s is finished.", folder)
        return earlier
    spent = max(files.seconds(), earlier.seconds if earlier is not None else 0.0)
    if spent:
        _LOG.info("Going on after %.0f s of earlier runs.", spent)
        budget = Budget(request.time_limit, started=args.started - spent)
    problem, print_ = _looked_at(problem, request, budget.remaining())
    ended = earlier if earlier is not None and earlier.summary else None  # else of this very fit, killed
    request, init = _start_from(args.init_from, ended, problem.tables, request, weights.name)
    _warn_of_few_queries(request.config, problem.tables.label_map.n_classes)
    job = _job(request, problem, init)
    before = {"import": imported, "prepare": time.monotonic() - args.started - imported}
    _LOG.info("Model folder: %s. Backbone: %s (%s).", folder, weights.name, weights.source)
    goes_on = args.init_from is not None or (earlier is not None and earlier.model.info.get("goes_on", False))
    facts = {"preset": request.preset, "tta": job.tta, "goes_on": goes_on, **_columns(seg)}
    keeper = _keeper(problem, facts, earlier)
    stop, log = Interrupt(), FitLog(check_loggers(args.loggers), folder)
    with _held_back(stop):
        try:
            outcome = _run(request, job, print_, budget, keeper, args.engine, stop, log)
            fitted = keeper.close(outcome, before, budget.elapsed(), budget.limit)
            files.close()
            return fitted
        finally:
            if not files.holds_state():  # nothing that resume=True could use
                files.close()


def _warn_of_few_queries(config: RunConfig, n_classes: int) -> None:
    """Say that a picture can't show all classes, since a query has one."""
    if config.model.head == "mask_classification" and config.model.num_queries < n_classes:
        _LOG.warning(
            "num_queries=%d, but %d classes: a picture that shows them all needs as many queries.",
            config.model.num_queries,
            n_classes,
        )


def _looked_at(problem: _Problem, request: FitRequest, remaining: float) -> tuple[_Problem, Fingerprint]:
    """The tables' fingerprint; where it asks for windows of large pictures, tables of those and theirs."""
    tables = problem.tables
    print_ = fingerprint(tables.train, tables.val, tables.label_map, tables.scan, tables.variety)
    if "image_size" not in {*request.given, *request.spaces}:
        files = RunFolder(problem.folder)
        tables, print_ = cut_large_pictures(tables, print_, files, remaining, request.seed)
    return replace(problem, tables=tables), print_


@contextlib.contextmanager
def _held_back(stop: Interrupt) -> Iterator[None]:
    """Deliver a SIGTERM at the end of the block; an error that it then leaves nobody to catch is logged."""
    try:
        yield
    except SemsegError as error:
        if stop.urgent:
            _LOG.error("%s", error)
        raise
    finally:
        stop.deliver()


def _earlier(args: FitArguments, problem: _Problem) -> Earlier | None:
    """The model that an earlier run left in the folder, for ``resume=True``."""
    if not args.resume or not _store.holds_model(problem.folder):
        return None
    earlier = Earlier.read(problem.folder)
    _check_same_problem(earlier, problem.tables, problem.metric)
    return earlier


def _checked(seg: SemanticSegmentor, args: FitArguments) -> FitRequest:
    """The request, as far as it follows from the arguments alone."""
    if args.engine not in ENGINES:
        raise unknown_name("engine", args.engine, ENGINES)
    check_loggers(args.loggers)
    if seg.backbone != "auto":
        named_backbone(seg.backbone)
    if seg.eval_metric is not None:
        check_metric_name(seg.eval_metric)
    if args.init_from is not None:
        require_model(args.init_from)
    if args.resume and seg.path is None:
        raise ConfigError(
            "resume=True goes on with what lies in path, and there is no path. Give it: "
            "SemanticSegmentor(path=...), in a shell --path."
        )
    request = resolve_request(
        presets=args.presets,
        hyperparameters=args.hyperparameters,
        tune_kwargs=args.tune_kwargs,
        devices=args.devices,
        num_workers=args.num_workers,
        seed=seg.random_state,
        verbosity=seg.verbosity,
        storage=args.storage,
        callbacks=args.callbacks,
    )
    return replace(request, time_limit=_time_limit(args.time_limit, request))


def _time_limit(given: float | None, request: FitRequest) -> float | None:
    """The limit; a search that would never end without one gets a stated default."""
    tune = request.tune
    if given is not None or tune is None or tune.num_trials is not None:
        return given
    if request.auto_tune and not request.spaces and "max_epochs" in request.given:
        return None  # exactly max_epochs, no search
    _LOG.info(
        "No time_limit given: searching for %.0f s. Pass time_limit= or hyperparameter_tune_kwargs=None.",
        DEFAULT_SEARCH_SECONDS,
    )
    return DEFAULT_SEARCH_SECONDS


def _backbone(seg: SemanticSegmentor, devices: DeviceChoice) -> str | os.PathLike[str]:
    """The backbone that was asked for, or this machine's choice, logged."""
    if seg.backbone != "auto":
        return seg.backbone
    name, reason = choose_backbone(devices)
    _LOG.info("Backbone: %s, %s.", name, reason)
    return name


def _columns(seg: SemanticSegmentor) -> dict[str, Any]:
    return {"image": seg.image, "label": seg.label}


def _check_same_problem(earlier: Earlier, tables: Tables, metric: str) -> None:
    """Resuming compares scores, so classes and metric must be the same."""
    found, asked = earlier.model.label_map, tables.label_map
    if (found.values, found.problem_type) != (asked.values, asked.problem_type):
        raise ArtifactError(
            f"resume=True: the model in {earlier.folder} has the classes {list(found.values)}, the table has "
            f"{list(asked.values)}. Start in another folder with init_from={str(earlier.folder)!r}."
        )
    before = earlier.model.info.get("eval_metric")
    if before != metric:
        raise ArtifactError(
            f"resume=True: the model in {earlier.folder} was chosen by {before!r}, not {metric!r}."
        )


def _run(
    request: FitRequest,
    job: TrainJob,
    print_: Fingerprint,
    budget: Budget,
    keeper: Keeper,
    engine: str,
    stop: Interrupt,
    log: FitLog,
) -> Outcome:
    """The search, with Ctrl-C and SIGTERM caught, a progress bar and the loggers."""
    with catch_interrupt(stop), progress_bar(request.verbosity >= 2, budget) as show:

        def progress(event: Mapping[str, Any]) -> None:
            log.progress(event)
            show(event)

        outcome = ENGINES[engine].run(
            request, job, print_, budget, stop, on_best=keeper.keep, progress=progress
        )
    log.close(outcome.rows)
    if outcome.study is not None and outcome.best is not None and not stop.requested:
        needed = 1.5 * outcome.best.predict_seconds * len(job.val)
        keeper.verify(job, budget.remaining, needed)
    if stop.requested:
        _LOG.warning("Interrupted: the best model so far is kept in %s.", keeper.folder)
    return outcome


def _start_from(
    init_from: Any, earlier: Earlier | None, tables: Tables, request: FitRequest, backbone: str
) -> tuple[FitRequest, Any]:
    """Tensors to start from (an earlier run's, else ``init_from``) and the request that fits them."""
    source = init_from if earlier is None else earlier.folder
    if source is None:
        return request, None
    channels = network_channels(tables.scaling)
    init, config = _store.initial_state(source, tables.label_map, request.config, backbone, channels)
    structural = frozenset(vars(config.adapter)) | {"head", "num_queries"}
    old, new = request.config.flat(), config.flat()
    overruled = sorted(k for k in structural & request.given if old[k] != new[k])
    overruled += sorted(structural & set(request.spaces))
    if overruled:
        _LOG.warning("The saved model decides %s; what was given is not used.", ", ".join(overruled))
    spaces = {name: space for name, space in request.spaces.items() if name not in structural}
    return replace(request, config=config, given=request.given | structural, spaces=spaces), init


def _keeper(problem: _Problem, facts: dict[str, Any], earlier: Earlier | None) -> Keeper:
    return Keeper(
        folder=problem.folder,
        tables=problem.tables,
        weights=problem.weights,
        metric=problem.metric,
        facts=facts,
        device=str(problem.devices),
        earlier=earlier,
    )


def _job(request: FitRequest, problem: _Problem, init: Any) -> TrainJob:
    automatic = 0 if problem.devices.kind == "cpu" else 4
    return TrainJob(
        config=request.config,
        label_map=problem.tables.label_map,
        train=problem.tables.train,
        val=problem.tables.val,
        weights=problem.weights,
        eval_metric=problem.metric,
        scaling=problem.tables.scaling,
        accelerator=problem.devices.kind,
        device_ids=problem.devices.ids,
        num_workers=automatic if isinstance(request.num_workers, str) else request.num_workers,
        seed=request.seed,
        init=init,
        tta=find_preset(request.preset)[1].tta,
        own_augment=request.own_augment,
    )
