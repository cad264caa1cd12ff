"""The trials of a search: started, paused at rungs, gone on with, until the time or the number is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from semseg_automl.core.config import RunConfig
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow
from semseg_automl.search.outcome import result_of, row_of
from semseg_automl.search.proposals import enqueue_from_portfolio, is_used_up, propose
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.rungs import MAX_RUNGS, Chain, promotable
from semseg_automl.search.session import Session
from semseg_automl.search.study import (
    EXCESS,
    MAIN,
    PRUNED,
    ROW,
    WORKER,
    any_waits,
    ask,
    call_back,
    chains_of,
    is_running,
    others_at_work,
    report_to,
    requeue_stale,
    root_of,
    tell,
    thaw,
)
from semseg_automl.search.trial import Attempt, run_trial
from semseg_automl.training.checkpoint import read_checkpoint, spent_seconds
from semseg_automl.training.job import TrainResult
from semseg_automl.training.select import standard_error

_LOG = get_logger("search")
DECODER_ONLY = "decoder_only"
GO, WAIT, STOP = "go", "wait", "stop"
_WAIT_SECONDS = 0.3
_ENOUGH = 0.5
"""Share of a rung for which a trial is still started."""


def planned_chains(session: Session, study: optuna.Study) -> int:
    """Chains after which no new one begins: a number counts over all runs, time starts anew."""
    known = len(chains_of(study.get_trials(deepcopy=False)))
    settings = session.request.tune or TuneSettings()
    return session.plan.trials + (known if settings.num_trials is None else 0)


def run_trials(
    session: Session, study: optuna.Study, *, most: int | None = None, see: Callable[[], None] = lambda: None
) -> int:
    """Ask, train, tell until the trials or the time are used up; returns how many this process ran.

    All processes of a search do this. ``most``: chains after which no new one begins; None: as planned.
    ``see()`` is called before each decision, to take in what other processes have done. The main process
    trains at least one model, however short the time is.
    """
    settings, count, exhausted = session.request.tune or TuneSettings(), 0, False
    most = planned_chains(session, study) if most is None else most
    while True:
        see()
        must = session.worker == MAIN and session.outcome.best is None and not count
        if not must and (session.stop() or session.ended):
            return count
        with session.files.turn():
            move = _next(session, study, settings, 0 if exhausted else most, must=must)
            if move == GO:
                trial, config = ask(study, session.plan.config, session.plan.spaces)
                trial.set_user_attr(WORKER, session.worker)
        if move == STOP:
            return count
        if move == WAIT:
            time.sleep(_WAIT_SECONDS)
            continue
        count += 1
        exhausted |= not _train(session, study, trial, config)
        if session.worker == MAIN and _has_room_for_decoder_only(session, study):
            _decoder_only(session, study)


def _has_room_for_decoder_only(session: Session, study: optuna.Study) -> bool:
    """Whether many trials are planned, the user has chosen no adapter, and it was not run yet."""
    plan, given = session.plan, {*session.request.given, *session.plan.spaces}
    fits = len(plan.rungs) == MAX_RUNGS and session.left() - plan.finish > plan.rungs[1]
    new = DECODER_ONLY not in study.user_attrs and plan.config.adapter.adapter != DECODER_ONLY
    return fits and new and "adapter" not in given


def _decoder_only(session: Session, study: optuna.Study) -> None:
    """How far the frozen encoder alone comes: a model outside of the study, to its first rung."""
    config = session.plan.config.replace(adapter=DECODER_ONLY)
    job = replace(
        session.job,
        config=config,
        device_ids=session.job.device_ids[:1],
        checkpoint=session.files.checkpoint(DECODER_ONLY),
        decay=0.0,
        val_seconds=session.val_seconds(),
    )
    hooks = session.hooks(DECODER_ONLY, session.plan.rungs[0], reserve=session.plan.finish, report=None)
    attempt = run_trial(job, hooks)
    study.set_user_attr(DECODER_ONLY, row_of(DECODER_ONLY, config, attempt).to_json())
    session.add(DECODER_ONLY, config, attempt)


def _next(session: Session, study: optuna.Study, settings: TuneSettings, most: int, *, must: bool) -> str:
    """Queue what comes next, if nothing waits: GO; STOP where the time is too short or nothing will come.

    WAIT: nothing is to be done, but what others train may change that. ``most``: chains that are
    planned, 0 once the sampler has no more. ``must``: there is no model yet, so that the time is never
    too short.
    """
    ends = session.plan.rungs
    chains = chains_of(study.get_trials(deepcopy=False))
    left = session.left() - session.plan.finish
    if not must and left < _ENOUGH * ends[0]:
        return STOP
    if any_waits(study):
        return GO
    own = settings.sampler is None
    used_up = own and is_used_up(study, session.plan.config, session.plan.spaces)
    draining = len(chains) >= most or used_up
    portfolio = own and len(ends) > 1 and chains and not draining
    if portfolio and enqueue_from_portfolio(study, session.plan.config, session.plan.spaces):
        return GO
    chain = promotable(chains, len(ends), draining=draining, alike=_alike(session, study))
    if chain is not None:
        rung = len(chain.scores)
        if left < _ENOUGH * (ends[rung] - ends[rung - 1]):
            return STOP
        thaw(study, chain)
        return GO
    if used_up or (draining and (settings.num_trials is not None or not most)):
        return WAIT if others_at_work(study, session.worker) else STOP
    if own and chains and not propose(study, session.plan.config, session.plan.spaces):
        return STOP
    return GO


def _alike(session: Session, study: optuna.Study) -> Callable[[Chain, Chain], bool]:
    """Tells whether a chain is worse than another by at most a standard error, picture by picture."""

    def alike(own: Chain, best: Chain) -> bool:
        trials = study.get_trials(deepcopy=False)
        rows = [trials[c.last].user_attrs.get(ROW) for c in (own, best) if c.last is not None]
        found = [_kept_result(session, ModelRow.from_json(row)) for row in rows if row is not None]
        results = [result for result in found if result is not None]
        if len(results) < 2:
            return False
        ours, theirs = results
        return ours.score >= theirs.score - standard_error(ours, theirs)

    return alike


def _kept_result(session: Session, row: ModelRow) -> TrainResult | None:
    """A model's result, from its state on disk; None where none was kept."""
    path = session.files.checkpoint(row.model)
    state = read_checkpoint(path) if path is not None and not math.isnan(row.score_val) else None
    return None if state is None else result_of(state, row, len(session.job.train))


def _train(session: Session, study: optuna.Study, trial: optuna.Trial, config: RunConfig) -> bool:
    """One trial: from where its chain was paused to the next rung; whether there is more to try."""
    plan, root = session.plan, root_of(trial)
    chain = next(c for c in chains_of(study.get_trials(deepcopy=False)) if c.root == root)
    rung = len(chain.scores)
    path = session.files.checkpoint(chain.name)
    job = replace(
        session.job_of(config),
        device_ids=session.job.device_ids[:1],
        checkpoint=path,
        decay=0.0 if len(plan.rungs) > 1 else None,
        val_seconds=session.val_seconds(),
    )
    reports = max((max(t.intermediate_values, default=-1) for t in _members(study, root)), default=-1)
    hooks = session.hooks(
        chain.name,
        _to_the_next_rung(plan.rungs, rung, path),
        reserve=plan.finish if _leaves_time(session, root) else 0.0,
        report=report_to(trial, reports + 1),
    )
    attempt = run_trial(job, hooks)
    return _record(session, study, trial, chain, attempt, config, top=rung + 1 >= len(plan.rungs))


def _leaves_time(session: Session, root: int) -> bool:
    """Whether a trial ends before the time of the finish; the first model of all may take it."""
    first = session.worker == MAIN and not root and session.outcome.best is None
    return math.isfinite(session.plan.finish) and not first


def _to_the_next_rung(ends: tuple[float, ...], rung: int, path: str | None) -> float:
    """Seconds of training until the chain's next rung; what it has trained since its last one counts."""
    start = ends[rung - 1] if 0 < rung < len(ends) else 0.0
    spent = None if path is None else spent_seconds(path)
    return ends[min(rung, len(ends) - 1)] - (start if spent is None else spent)


def _members(study: optuna.Study, root: int) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if root_of(t) == root]


def _record(
    session: Session,
    study: optuna.Study,
    trial: optuna.Trial,
    chain: Chain,
    attempt: Attempt,
    config: RunConfig,
    *,
    top: bool,
) -> bool:
    """Tell the study first, with the row: what it knows is not trained again after a kill."""
    result = attempt.result
    if session.leaving():  # the trial is handed back
        return True
    if not is_running(study, trial.number):
        _LOG.warning("%s: this process was taken for dead, and another repeats the trial.", chain.name)
        return True
    trial.set_user_attr(ROW, row_of(chain.name, config, attempt, session.worker).to_json())
    pruned = result is not None and result.state == "pruned"
    if pruned:
        trial.set_user_attr(PRUNED, True)
    if result is not None and session.outcome.limits.any:
        excess = session.outcome.limits.excess(result.peak_memory_mb, result.predict_seconds)
        trial.set_user_attr(EXCESS, list(excess))
    more = tell(study, trial, result.score if result else None, pruned=pruned or not top)
    session.add(chain.name, config, attempt)
    _LOG.info("%s: %s", chain.name, f"{result.score:.4f} ({result.state})" if result else attempt.reason)
    if call_back(session.request.callbacks, study, study.trials[trial.number]):
        session.end()
    return more


def go_on(session: Session, study: optuna.Study, is_gone: Callable[[FrozenTrial], bool]) -> None:
    """Take over what an earlier run of the search left: its rows, its best model, its lost trials."""
    for number in requeue_stale(study, is_gone, session.safe_seconds):
        _LOG.info("Trial %d was cut short: it is queued once more.", number)
    adopt(session, study)


def adopt(session: Session, study: optuna.Study, numbers: Container[int] | None = None) -> None:
    """Record the chains that the study knows and this process does not; of all trials, or of ``numbers``."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        stored = trial.user_attrs.get(ROW)
        if stored is None or not (numbers is None or trial.number in numbers):
            continue
        if stored["model"] not in rows or stored["score_val"] is not None:
            rows[stored["model"]] = stored
    if numbers is None and DECODER_ONLY in study.user_attrs:
        rows[DECODER_ONLY] = study.user_attrs[DECODER_ONLY]
    better = False
    for stored in rows.values():
        row = ModelRow.from_json(stored)
        result = _kept_result(session, row)
        if result is not None:
            row = replace(row, score_val=result.score, steps=result.steps)
            if numbers is not None:  # of this run, whose clock is the session's
                session.outcome.follow(result, session.budget.elapsed())
        better |= session.outcome.adopt(row, RunConfig.from_json(row.config), result)
    if better:
        session.on_best(session.outcome)
