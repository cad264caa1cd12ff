"""A whole fit after the data is checked: probe, plan, trials, finish; one clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import TrainingError
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.facts import probe_speed
from semseg_automl.search.planner import Fingerprint, Plan, expected_epochs, make_plan
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.study import ask, call_back, enqueue_default, open_study, quiet_optuna, report_to, tell
from semseg_automl.search.trial import Attempt, run_trial
from semseg_automl.training.feature_cache import worth_caching
from semseg_automl.training.feature_store import make_store_folder, remove_store_folder
from semseg_automl.training.job import Hooks, TrainJob, TrainResult

_LOG = get_logger("search")
FINISH_SHARE = 0.3
"""The finish continues the best model if at least this share of a trial's time is left."""


@dataclass(kw_only=True)
class Outcome:
    """What a search ends with; grows while it runs, so that an interruption loses nothing."""

    plan: Plan
    rows: list[ModelRow] = field(default_factory=list)
    best: TrainResult | None = None
    best_config: RunConfig | None = None
    best_name: str = ""
    study: Any = None
    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.0
    """Time in training and validation steps, over all models."""

    def add(self, name: str, config: RunConfig, attempt: Attempt) -> bool:
        """Record one model; returns whether it is the best so far."""
        result = attempt.result
        self.rows.append(row_of(name, config, attempt))
        if result is None:
            return False
        self.step_seconds += result.train_seconds + result.val_seconds
        better = self.best is None or _rank(result) > _rank(self.best)
        if better:
            self.best, self.best_config, self.best_name = result, config, name
        return better


def _rank(result: TrainResult) -> tuple[bool, bool, float]:
    """Models in order: defined scores first, then scores of all validation pictures, then the score."""
    defined = not math.isnan(result.score)
    return defined, result.complete, result.score if defined else 0.0


def row_of(name: str, config: RunConfig, attempt: Attempt) -> ModelRow:
    """One leaderboard row of a trained or failed model."""
    result = attempt.result
    if result is None:
        return ModelRow(
            model=name,
            score_val=math.nan,
            state="failed",
            reason=attempt.reason,
            config=config.to_json(),
            fit_time=attempt.seconds,
        )
    return ModelRow(
        model=name,
        score_val=result.score,
        state=result.state,
        reason=attempt.reason,
        config=config.to_json(),
        fit_time=attempt.seconds,
        steps=result.steps,
        seconds_per_step=result.seconds_per_step,
        predict_time=result.predict_seconds,
        n_trainable=result.n_trainable,
        peak_memory_mb=result.peak_memory_mb,
    )


def plan_fit(
    request: FitRequest, job: TrainJob, print_: Fingerprint, budget: Budget
) -> tuple[Plan, TrainJob]:
    """Probe the machine and plan; returns the plan and the job in its configuration."""
    probe = probe_speed(job, print_, budget.remaining())
    plan = make_plan(request, print_, probe, budget.remaining())
    kept, reason = worth_caching(
        plan.config, job.train.sizes, expected_epochs(plan, print_, probe), job.accelerator
    )
    for line in (*plan.reasons, reason):
        _LOG.info("Plan: %s.", line)
    job = replace(job, config=plan.config, precision=plan.precision, max_steps=plan.max_steps)
    return plan, replace(job, feature_cache=make_store_folder(request.folder) if kept else None)


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
    on all of them.

    ``on_best`` is called whenever a better model exists (it stores it). Raises TrainingError with
    the first cause if every trial failed.
    """
    started = time.perf_counter()
    plan, job = plan_fit(request, job, print_, budget)
    outcome = Outcome(plan=plan)
    outcome.seconds["probe_and_plan"] = time.perf_counter() - started
    try:
        if plan.trials == 1:
            hooks = _hooks(budget, math.inf, plan, stop, progress, "default")
            if outcome.add("default", plan.config, run_trial(job, hooks)):
                on_best(outcome)
        else:
            _search(request, job, budget, stop, outcome, on_best, progress)
            _finish(job, budget, stop, outcome, on_best, progress)
    finally:
        remove_store_folder(job.feature_cache)
    if outcome.best is None:
        reasons = [row.reason for row in outcome.rows]
        raise TrainingError(f"No model could be trained. First cause: {reasons[0] if reasons else 'no time'}")
    return outcome


def _hooks(
    budget: Budget,
    seconds: float,
    plan: Plan,
    stop: Interrupt,
    progress: Callable[[Mapping[str, Any]], None],
    name: str,
    report: Any = None,
) -> Hooks:
    def tell_progress(event: Mapping[str, float]) -> None:
        progress({"model": name, "time_left": budget.remaining(), **event})

    return Hooks(
        remaining=budget.slice(seconds, plan.reserve),
        report=report or (lambda _step, _score: False),
        stop_requested=stop,
        urgent=lambda: stop.urgent,
        progress=tell_progress,
    )


def _search(
    request: FitRequest,
    job: TrainJob,
    budget: Budget,
    stop: Interrupt,
    outcome: Outcome,
    on_best: Callable[[Outcome], None],
    progress: Callable[[Mapping[str, Any]], None],
) -> None:
    """Ask, train, tell until the trials or the time are used up."""
    plan = outcome.plan
    settings = request.tune or TuneSettings()
    with quiet_optuna():
        study = outcome.study = open_study(
            settings, request.seed, request.storage, request.folder.name or "fit"
        )
        enqueue_default(study, plan.config, plan.spaces)
        for number in range(plan.trials if settings.num_trials else 10_000):
            left = budget.remaining() - plan.reserve - plan.finish
            if stop() or (number and left < 0.5 * plan.horizon):
                break
            trial, config = ask(study, plan.config, plan.spaces)
            name = "default" if number == 0 else f"trial_{number}"
            hooks = _hooks(budget, plan.horizon, plan, stop, progress, name, report_to(trial))
            attempt = run_trial(replace(job, config=config, device_ids=job.device_ids[:1]), hooks)
            result = attempt.result
            tell(
                study,
                trial,
                result.score if result else None,
                pruned=bool(result and result.state == "pruned"),
            )
            if outcome.add(name, config, attempt):
                on_best(outcome)
            _LOG.info("%s: %s", name, f"{result.score:.4f} ({result.state})" if result else attempt.reason)
            if call_back(request.callbacks, study, study.trials[trial.number]):
                break


def _finish(
    job: TrainJob,
    budget: Budget,
    stop: Interrupt,
    outcome: Outcome,
    on_best: Callable[[Outcome], None],
    progress: Callable[[Mapping[str, Any]], None],
) -> None:
    """Continue the best model, never from nothing, in the time that is left; kept only if better."""
    plan, best, config = outcome.plan, outcome.best, outcome.best_config
    left = budget.remaining() - plan.reserve
    if (
        best is None
        or config is None
        or stop()
        or not math.isfinite(left)
        or left < FINISH_SHARE * plan.horizon
    ):
        return
    optim = config.optim
    gentler = config.replace(
        learning_rate=0.5 * optim.learning_rate,
        decoder_learning_rate=0.5 * optim.decoder_learning_rate,
        small_share=0.0,
    )
    hooks = _hooks(budget, math.inf, plan, stop, progress, "finish")
    attempt = run_trial(replace(job, config=gentler, init=best.model, seed=job.seed + 1), hooks)
    if outcome.add(f"{outcome.best_name}_finished", gentler, attempt):
        on_best(outcome)
