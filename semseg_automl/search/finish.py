"""The end of a search: the best model goes on, its rate falling to 0, and is averaged with what it was."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from semseg_automl.core.log import get_logger
from semseg_automl.search.outcome import row_of
from semseg_automl.search.session import Session
from semseg_automl.search.trial import Attempt, run_trial
from semseg_automl.training.average import average_models, same_weights, score_model
from semseg_automl.training.checkpoint import spent_seconds
from semseg_automl.training.job import TrainJob, TrainResult

_LOG = get_logger("search")
FINISH_SHARE = 0.3
"""A model that was trained to its end starts again if at least this share of a trial's time is left."""
_SAFETY = 1.5  # of the time that scoring the average should take


def finish(session: Session) -> None:
    """Continue the best model, never from nothing, in the time that is left.

    What comes of it is kept unless it is surely worse (``Outcome``), the mean of both models only if it is
    better. A model that was paused goes on with its optimiser, and its rate falls linearly to 0. One that was
    trained to its end starts again at half its rates.
    """
    plan, outcome = session.plan, session.outcome
    best, left = outcome.best, session.left()
    if best is None or session.stop() or not math.isfinite(left):
        return
    name, scoring = outcome.best_name, _SAFETY * session.val_seconds()
    if left < (2.0 * session.val_seconds() if len(plan.rungs) > 1 else FINISH_SHARE * plan.rungs[-1]):
        return
    averaging = left >= 4.0 * scoring
    job = _continued(session, best, left) if _was_paused(session) else _restarted(session, best)
    job = replace(job, val_seconds=session.val_seconds())
    before = outcome.worked(name) if job.init is None else 0.0
    hooks = session.hooks(f"{name}_finished", math.inf, reserve=scoring if averaging else 0.0, report=None)
    attempt = run_trial(job, hooks)
    if attempt.result is not None:
        outcome.follow(attempt.result, session.budget.elapsed())
    row = replace(row_of(f"{name}_finished", job.config, attempt), fit_time=attempt.seconds)
    if outcome.adopt(row, job.config, attempt.result, before=before, continued=True):
        session.on_best(outcome)
    if attempt.result is not None and averaging:
        _average(session, job, [best, attempt.result], name, scoring)


def _was_paused(session: Session) -> bool:
    """Whether the best model can go on; its state may be missing, where the disk was full."""
    path = session.files.checkpoint(session.outcome.best_name)
    return len(session.plan.rungs) > 1 and (path is None or Path(path).is_file())


def _continued(session: Session, best: TrainResult, left: float) -> TrainJob:
    """From the state on disk, with a decay over all that is left."""
    config = session.outcome.best_config or session.plan.config
    checkpoint = session.files.checkpoint(session.outcome.best_name)
    spent = None if checkpoint is None else spent_seconds(checkpoint)
    return replace(
        session.job_of(config),
        checkpoint=checkpoint,
        decay=left / ((best.seconds if spent is None else spent) + left),
    )


def _restarted(session: Session, best: TrainResult) -> TrainJob:
    config = session.outcome.best_config or session.plan.config
    optim = config.optim
    gentler = config.replace(
        learning_rate=0.5 * optim.learning_rate,
        decoder_learning_rate=0.5 * optim.decoder_learning_rate,
        small_share=0.0,
    )
    return replace(session.job_of(gentler), init=best.model, seed=session.job.seed + 1)


def _average(session: Session, job: TrainJob, results: list[TrainResult], name: str, needed: float) -> None:
    """Score the mean of the weights before and after the finish; kept only if it is better."""
    last = results[-1]
    if session.stop() or session.left() < needed or same_weights(last.model, results[0].model):
        return
    mean = average_models([result.model for result in results])
    hooks = session.hooks(f"{name}_averaged", math.inf, report=None)
    found = score_model(replace(job, init=mean, checkpoint=None), hooks)
    if found is None:
        return
    result = replace(
        last,
        score=found.score,
        threshold=found.threshold,
        metrics=found.metrics,
        model=mean,
        train_seconds=0.0,
        val_seconds=found.seconds,
        never_predicted=found.never_predicted,
        complete=found.complete,
        per_image=found.per_image,
    )
    _LOG.info("Mean of the weights before and after the finish: %.4f.", found.score)
    attempt = Attempt(result=result, reason="mean of two models' weights", seconds=found.seconds)
    row = replace(row_of(f"{name}_averaged", job.config, attempt), fit_time=found.seconds)
    if session.outcome.adopt(row, job.config, result):
        session.on_best(session.outcome)
