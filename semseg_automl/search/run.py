"""A whole fit after the data is checked: probe, plan, trials, finish; one clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError

from semseg_automl.artifacts.layout import holds_model
from semseg_automl.core.errors import ArtifactError, BudgetError, ConfigError, TrainingError
from semseg_automl.core.log import get_logger
from semseg_automl.data.augment import OWN
from semseg_automl.models.devices import peak_memory_mb
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.crew import crew_of
from semseg_automl.search.finish import finish
from semseg_automl.search.limits import Limits
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.planner import Fingerprint, Plan, expected_epochs, make_plan
from semseg_automl.search.proposals import enqueue_default
from semseg_automl.search.report import search_table
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.run_folder import RunFolder, Start
from semseg_automl.search.rungs import adapted, chain_cost
from semseg_automl.search.session import Session
from semseg_automl.search.storage import open_storage
from semseg_automl.search.study import (
    check_spaces,
    in_memory,
    open_study,
    own_sampler,
    quiet_optuna,
    requeue_stale,
)
from semseg_automl.search.trial import Attempt, run_trial
from semseg_automl.search.trials import go_on, run_trials
from semseg_automl.search.workers import fixed_workers, measure
from semseg_automl.training.checkpoint import read_checkpoint, result_at
from semseg_automl.training.feature_cache import worth_caching
from semseg_automl.training.feature_store import make_store_folder, remove_store_folder
from semseg_automl.training.job import TrainJob

_LOG = get_logger("search")
_FOLDER = "folder"  # a study's user attribute
_NO_JOURNAL = "The search can't be kept on disk (%s): it goes on in memory, and killed it would start anew."


def plan_fit(
    request: FitRequest, job: TrainJob, print_: Fingerprint, budget: Budget, files: RunFolder
) -> tuple[Plan, TrainJob]:
    """Probe the machine and plan; returns the plan and the job in its configuration.

    Where a fit was cut short its sizes, rungs and probe are taken over; only the time is planned anew.
    """
    start = files.read_start()
    if start is None:
        workers, probe = measure(request, job, print_, budget.remaining())
        plan = make_plan(request, print_, probe, budget.remaining(), workers)
        files.write_start(
            Start(
                config=plan.config,
                probe=probe,
                rungs=plan.rungs,
                problem=_problem(request, job),
                workers=workers,
            )
        )
    else:
        probe = start.probe
        if start.problem != _problem(request, job):
            raise ConfigError(
                f"resume=True: the fit that was cut short learned {start.problem}, now it is "
                f"{_problem(request, job)}. Start in another folder."
            )
        workers = fixed_workers(request, job, budget.remaining()) or start.workers
        plan = make_plan(gone_on(request, start), print_, probe, budget.remaining(), workers)
        if len(start.rungs) > 1:
            plan = go_on_with_rungs(plan, start.rungs, request, budget.remaining())
    kept, reason = worth_caching(
        plan.config, job.train.sizes, expected_epochs(plan, print_, probe), job.accelerator
    )
    for line in (*plan.reasons, reason):
        _LOG.info("Plan: %s.", line)
    job = replace(job, config=plan.config, precision=plan.precision, max_steps=plan.max_steps)
    if kept and files.path is not None:
        job = replace(job, feature_cache=make_store_folder(files.path))
    return plan, job


def go_on_with_rungs(plan: Plan, rungs: tuple[float, ...], request: FitRequest, remaining: float) -> Plan:
    """A plan for the time that is left, with the rungs of the run that was cut short, or fewer, or more.

    Scores at a rung stay comparable, since its end does not move. See ``rungs.adapted``.
    """
    seconds = (1.0 - request.finish_share) * remaining
    fitting, trials = adapted(rungs, seconds), plan.trials
    if math.isfinite(seconds):
        wanted = request.tune.num_trials if request.tune is not None else None
        trials = wanted or max(1, int(plan.workers * seconds / (chain_cost(len(fitting)) * fitting[-1])))
    ends = ", ".join(f"{end:.0f}" for end in fitting)
    told = f"goes on: trials are paused after {ends} s" + (
        ""
        if fitting == rungs
        else f", {len(fitting)} rungs instead of {len(rungs)} for the time that is left"
    )
    reasons = tuple(line for line in plan.reasons if not line.startswith("trials are paused"))
    return replace(plan, rungs=fitting, horizon=fitting[-1], trials=trials, reasons=(*reasons, told))


def _problem(request: FitRequest, job: TrainJob) -> str:
    names = "" if job.label_map is None else ", ".join(map(str, job.label_map.names))
    return f"{request.eval_metric} of {names}"


def gone_on(request: FitRequest, start: Start) -> FitRequest:
    """The request in the configuration that an earlier run had planned.

    Raises
    ------
    ConfigError
        Another value was given for a hyperparameter (``max_epochs`` may differ).
    """
    before, now = start.config.flat(), request.config.flat()
    changed = sorted(n for n in request.given - {"max_epochs"} if before[n] != now[n])
    if changed:
        words = ", ".join(f"{n} ({before[n]} -> {now[n]})" for n in changed)
        raise ConfigError(
            f"resume=True goes on with a fit that was cut short, and other hyperparameters were given: "
            f"{words}. Leave them out, or start in another folder."
        )
    if start.config.optim.augment.startswith(OWN) and request.own_augment is None:
        raise ConfigError(
            f"resume=True goes on with a fit whose augment was a function ({start.config.optim.augment}): "
            "give it again, or start in another folder."
        )
    planned = frozenset({"image_size", "crop_size", "augment", "small_share", "class_crops"})
    if len(start.rungs) == 1:  # a schedule that was begun with its end in view is not paused
        planned |= {"schedule"}
    config = start.config.replace(max_epochs=request.config.optim.max_epochs)
    return replace(request, config=config, given=request.given | planned)


def run_search(
    request: FitRequest,
    job: TrainJob,
    print_: Fingerprint,
    budget: Budget,
    stop: Interrupt,
    *,
    on_best: Callable[[Outcome], None],
    progress: Callable[[Mapping[str, Any]], None] = lambda _event: None,
) -> Outcome:
    """Run the planned trials and finish the best; always at least one model unless all fail.

    Trials of a search run on the job's first device; a training without a search and the finish run
    on all of them. What an earlier run of the same fit left in its folder is taken over.

    ``on_best`` is called whenever a better model exists (it stores it). Raises TrainingError with
    the first cause if every trial failed, BudgetError if none was begun, ConfigError if the storage
    can't be reached.
    """
    started = time.perf_counter()
    files = RunFolder(request.folder)
    limits = _measurable(Limits.of(request.tune), job)
    storage = open_storage(request.storage, None) if request.storage is not None else None
    resumed = files.is_open
    plan, job = plan_fit(request, job, print_, budget, files)
    outcome = Outcome(plan=plan, limits=limits)
    outcome.seconds["probe_and_plan"] = time.perf_counter() - started
    session = Session(
        request=request,
        job=job,
        budget=budget,
        stop=stop,
        files=files,
        outcome=outcome,
        on_best=on_best,
        progress=progress,
    )
    try:
        if plan.trials == 1 and not (resumed and (files.holds_study or storage is not None)):
            _one_model(session)
        else:
            with quiet_optuna():
                _search(session, storage, resumed=resumed)
            finish(session)
    finally:
        remove_store_folder(job.feature_cache)
    if outcome.best is None:
        _rescue(session)
    _check_best(outcome, limits)
    return outcome


def _check_best(outcome: Outcome, limits: Limits) -> None:
    """Raise where there is no model; warn where the best one breaks the user's limits."""
    if outcome.best is None:
        if not outcome.rows:
            raise BudgetError(
                "No training was begun: neither the time nor the number of trials left room for one."
            )
        raise TrainingError(f"No model could be trained. First cause: {outcome.rows[0].reason}")
    if not outcome.keeps_limits(outcome.best):
        best = outcome.best
        _LOG.warning(
            "No model keeps the limits. The one that is kept, %s, %s. Search image_size or the adapter, take "
            "a smaller backbone, or raise the limit.",
            outcome.best_name,
            limits.complaint(best.peak_memory_mb, best.predict_seconds),
        )


def _measurable(limits: Limits, job: TrainJob) -> Limits:
    """The limits, if this system can tell what a model takes."""
    if limits.max_memory is not None and math.isnan(peak_memory_mb(job.accelerator)):
        raise ConfigError(
            f"max_memory={limits.max_memory:g}: this system doesn't tell what a training takes "
            f"on {job.accelerator}. Leave it out."
        )
    return limits


def _one_model(session: Session) -> None:
    job = replace(session.job, checkpoint=session.files.checkpoint("default"))
    hooks = session.hooks("default", math.inf, report=None)
    session.add("default", session.plan.config, run_trial(job, hooks))


def _rescue(session: Session) -> None:
    """Where every training failed: what they had validated before, from their states on disk."""
    outcome, causes, better = session.outcome, [row.reason for row in session.outcome.rows], False
    for row in list(outcome.rows):
        path = session.files.checkpoint(row.model)
        try:
            state = None if path is None else read_checkpoint(path)
        except ArtifactError as error:
            _LOG.warning("%s", error)
            continue
        if state is not None:
            result = result_at(state, len(session.job.train), "interrupted" if session.stop() else "failed")
            attempt = Attempt(result=result, reason=row.reason, seconds=row.fit_time)
            better |= outcome.add(row.model, state.config, attempt)
    if better:
        _LOG.warning("Training failed: %s The best weights validated before are kept.", causes[0])
        session.on_best(outcome)


def _search(session: Session, storage: optuna.storages.BaseStorage | None, *, resumed: bool) -> None:
    """The trials; ``study_`` is a copy in memory, unless the user named a storage.

    Where the journal can't be written any more (a full disk) the search goes on in memory.
    """
    try:
        study = _begin(session, storage or open_storage(None, session.files.path), resumed=resumed)
    except OSError as error:
        _LOG.warning(_NO_JOURNAL, error)
        study = _begin(session, None, resumed=False)
    try:
        if session.plan.trials > 1 or session.outcome.best is None:
            with crew_of(session, study, session.request.storage) as (led, crew):
                if crew is None:
                    run_trials(led, study)
                else:
                    run_trials(led, study, most=crew.most, see=crew.see)
    except (OSError, StorageInternalError) as error:
        _LOG.warning(_NO_JOURNAL, error)
        study = _without_storage(session, study)
    finally:
        session.outcome.study = study if storage is not None else in_memory(study)
        session.outcome.table = search_table(study)


def _without_storage(session: Session, study: optuna.Study) -> optuna.Study:
    """Go on in memory; where the study can't even be read, only if there is no model yet."""
    try:
        study = in_memory(study)
        requeue_stale(study, lambda _trial: True)
    except (OSError, StorageInternalError) as error:
        _LOG.warning("The search's trials can't be read any more (%s).", error)
        if session.outcome.best is not None:
            return open_study(TuneSettings(), session.request.seed, None, "fit")
        study = _begin(session, None, resumed=False)
    run_trials(session, study)
    return study


def _begin(session: Session, storage: optuna.storages.BaseStorage | None, *, resumed: bool) -> optuna.Study:
    """Open the study; go on with what it holds, or queue the first trials."""
    request, plan, folder = session.request, session.plan, session.request.folder
    settings = request.tune or TuneSettings()
    name = "fit" if folder is None else folder.name
    if storage is not None and request.storage is not None and folder is not None:
        name = _run_of(storage, folder, new=not resumed and holds_model(folder))
    study = open_study(settings, request.seed, storage, name, paused=len(plan.rungs) > 1)
    known = len(study.trials)
    if known and not resumed:
        raise ConfigError(
            f"storage={request.storage!r} already holds a study {name!r}, of another fit: it is named after "
            "the model's folder. Choose another path, or delete that study."
        )
    check_spaces(study, plan.spaces)
    if known:
        if settings.sampler is None:
            study.sampler = own_sampler(
                request.seed + known, limited=Limits.of(settings).any
            )  # not the same draws again
        go_on(session, study, lambda _trial: True)  # this process holds the folder: no other trains
    else:
        study.set_user_attr(_FOLDER, str(folder))
        enqueue_default(study, plan.config, plan.spaces)
    return study


def _run_of(storage: optuna.storages.BaseStorage, folder: Path, *, new: bool) -> str:
    """The study of the latest run into a folder in the user's storage, or with ``new`` of the next one.

    A search that has ended and is given more time begins another: ``NAME_run2``, ... It remembers its folder,
    since another folder may be called so.
    """
    found, latest, number = set(optuna.get_all_study_names(storage)), folder.name, 2
    while (name := f"{folder.name}_run{number}") in found:
        attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
        latest = name if attributes.get(_FOLDER) == str(folder) else latest
        number += 1
    return name if new and folder.name in found else latest
