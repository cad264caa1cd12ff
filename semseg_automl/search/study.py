"""Optuna behind three verbs: open a study, ask for a configuration, tell a score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.space import Categorical, Int, Space


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's messages off the screen; leave its verbosity as found."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(settings: TuneSettings, seed: int, storage: str | None, name: str) -> optuna.Study:
    """Create or load a study that maximises the validation score.

    TPE (multivariate) and a median pruner unless the user gives objects of their own.
    """
    sampler = settings.sampler or optuna.samplers.TPESampler(
        seed=seed, multivariate=True, n_startup_trials=4, constant_liar=False
    )
    pruner = settings.pruner or optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    for given, kind in ((sampler, optuna.samplers.BaseSampler), (pruner, optuna.pruners.BasePruner)):
        if not isinstance(given, kind):
            raise ConfigError(f"hyperparameter_tune_kwargs: {given!r} is not an optuna {kind.__name__}.")
    return optuna.create_study(
        direction="maximize",
        sampler=sampler,
        pruner=pruner,
        storage=storage,
        study_name=name,
        load_if_exists=True,
    )


def enqueue_default(study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]) -> None:
    """Make the default configuration the first trial, as far as it lies in the spaces."""
    flat = config.flat()
    values = {
        name: _as_told(flat[name], space) for name, space in spaces.items() if _inside(flat[name], space)
    }
    study.enqueue_trial(values, skip_if_exists=True)


def _inside(value: Any, space: Space) -> bool:
    if isinstance(space, Categorical):
        return value in space.choices
    return isinstance(value, int | float) and space.lower <= value <= space.upper


def ask(
    study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]
) -> tuple[optuna.Trial, RunConfig]:
    """Draw the next configuration."""
    trial = study.ask()
    return trial, config.replace(**{name: _suggest(trial, name, space) for name, space in spaces.items()})


def _is_plain(space: Categorical) -> bool:
    """Whether Optuna can hold the choices themselves; else it holds their numbers."""
    return all(c is None or isinstance(c, bool | int | float | str) for c in space.choices)


def _as_told(value: Any, space: Space) -> Any:
    """A value as Optuna knows it."""
    return space.choices.index(value) if isinstance(space, Categorical) and not _is_plain(space) else value


def _suggest(trial: optuna.Trial, name: str, space: Space) -> Any:
    if isinstance(space, Categorical):
        if _is_plain(space):
            return trial.suggest_categorical(name, space.choices)
        return space.choices[trial.suggest_categorical(name, range(len(space.choices)))]
    if isinstance(space, Int):
        return trial.suggest_int(name, space.lower, space.upper, log=space.log)
    return trial.suggest_float(name, space.lower, space.upper, log=space.log)


def report_to(trial: optuna.Trial) -> Any:
    """The ``report(step, score) -> stop`` callable of a trial; steps are counted in reports, from 0."""
    count = 0

    def report(_step: int, score: float) -> bool:
        nonlocal count
        trial.report(score, count)
        count += 1
        return bool(trial.should_prune())

    return report


def call_back(
    callbacks: Iterable[Callable[..., None]], study: optuna.Study, trial: optuna.trial.FrozenTrial
) -> bool:
    """Call Optuna callbacks after a trial; returns whether one of them called ``study.stop()``.

    Optuna itself lets callbacks stop a study only inside of ``study.optimize``.
    """
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True

    study.stop = stop  # type: ignore[method-assign]
    try:
        for callback in callbacks:
            callback(study, trial)
    finally:
        del study.stop
    return asked


def tell(study: optuna.Study, trial: optuna.Trial, score: float | None, *, pruned: bool = False) -> None:
    """Close a trial: complete with its score, pruned, or failed (score None)."""
    state = optuna.trial.TrialState
    if score is None or score != score:
        study.tell(trial, state=state.FAIL)
    elif pruned:
        study.tell(trial, state=state.PRUNED)
    else:
        study.tell(trial, score)
