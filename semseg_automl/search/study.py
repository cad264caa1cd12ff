"""Optuna behind a few verbs: open a study, ask for a configuration, tell a score, go on after a kill."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.search.configurations import drawn
from semseg_automl.search.limits import Limits
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.rungs import BUSY, DROPPED, PAUSED, Chain, name_of
from semseg_automl.search.space import Categorical, Int, Space

ROOT, CONTINUES, REQUEUED, SPENT = "root", "continues", "requeue_of", "spent"
"""User attributes: number of a chain's first trial; of the trial that this one goes on with; of the one
that it repeats because its process died; the seconds of training that were on disk then."""
SCORE, PRUNED, ROW, WORKER, EXCESS = "score", "pruned_for_good", "row", "worker", "excess"
"""User attributes: score of the model that was kept (greater is better); the pruner ended the chain; its
row of the leaderboard; the process that trains it; by how much it breaks each limit (``search.limits``)."""
PLACE = "portfolio"
"""User attribute: which entry of the portfolio a trial is, the library's own values being 0."""
CONSTRAINTS = "constraints"  # where Optuna keeps what a constraints_func answered
_OTHER_VALUES = (
    "resume=True goes on with a search over other values of {name}: {before} before, {now} now. Give the "
    "same, or start in another folder."
)
MAIN = "main"
"""The name of the process that runs ``fit``, as a worker."""


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's messages off the screen; leave its verbosity as found."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def own_sampler(seed: int, *, limited: bool = False) -> optuna.samplers.BaseSampler:
    """TPE over all hyperparameters together; running trials count as bad, so that workers spread out.

    ``limited``: trials tell by how much they break limits, and those that do count as worse than others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Optuna 5 has another way, which 4 lacks
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            n_startup_trials=4,
            constant_liar=True,
            constraints_func=_excess_of if limited else None,
        )


def _excess_of(trial: FrozenTrial) -> tuple[float, ...]:
    return tuple(trial.user_attrs.get(EXCESS, ()))


def open_study(
    settings: TuneSettings, seed: int, storage: Any, name: str, *, paused: bool = False
) -> optuna.Study:
    """Create or load a study that maximises the validation score.

    TPE and a median pruner unless the user gives objects of their own; no pruner where trials are
    ``paused`` at rungs. ``storage``: a URL, an Optuna storage or None (memory).
    """
    sampler = settings.sampler or own_sampler(seed, limited=Limits.of(settings).any)
    pruner = settings.pruner or (
        optuna.pruners.NopPruner()
        if paused
        else optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    )
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


def in_memory(study: optuna.Study) -> optuna.Study:
    """A copy that needs no file: what ``study_`` is after a fit, wherever the folder goes."""
    copy = optuna.create_study(
        direction="maximize", sampler=study.sampler, pruner=study.pruner, study_name=study.study_name
    )
    copy.add_trials(study.get_trials(deepcopy=True))
    for key, value in study.user_attrs.items():
        copy.set_user_attr(key, value)
    return copy


def ask(
    study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]
) -> tuple[optuna.Trial, RunConfig]:
    """The next trial: one that waits, or else a configuration from the study's sampler.

    Only hyperparameters that have an effect, with the values of the others, are asked for.
    """
    trial = study.ask()
    return trial, drawn(config, spaces, partial(suggest, trial))


def any_waits(study: optuna.Study) -> bool:
    """Whether a trial is queued."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def thaw(study: optuna.Study, chain: Chain) -> None:
    """Queue a trial that goes on with a paused chain."""
    if chain.last is None:
        raise RuntimeError("only what was paused is thawed")
    _queue_again(study, study.get_trials(deepcopy=False)[chain.last], {CONTINUES: chain.last})


def _queue_again(study: optuna.Study, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
    study.enqueue_trial(values_of(trial), user_attrs={ROOT: root_of(trial), **attributes})


def values_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has asked for, and what was queued for it, as Optuna knows it."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def root_of(trial: FrozenTrial | optuna.Trial) -> int:
    """Number of the first trial of a trial's chain."""
    return int(trial.user_attrs.get(ROOT, trial.number))


def chains_of(trials: Sequence[FrozenTrial]) -> list[Chain]:
    """The chains that have started, by their first trial's number."""
    members: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state != TrialState.WAITING or ROOT in trial.user_attrs:
            members.setdefault(root_of(trial), []).append(trial)
    return [_chain(root, members[root]) for root in sorted(members)]


def _chain(root: int, trials: list[FrozenTrial]) -> Chain:
    done = [t for t in trials if SCORE in t.user_attrs and t.state.is_finished()]
    newest = trials[-1]
    status = PAUSED if SCORE in newest.user_attrs else DROPPED
    if not newest.state.is_finished():
        status = BUSY
    elif newest.user_attrs.get(PRUNED):
        status = DROPPED
    return Chain(
        root=root,
        scores=tuple(float(t.user_attrs[SCORE]) for t in done),
        status=status,
        last=done[-1].number if done else None,
        keeps=not done or all(value <= 0.0 for value in done[-1].user_attrs.get(EXCESS, ())),
        own=trials[0].user_attrs.get(PLACE) == 0,
    )


def requeue_stale(
    study: optuna.Study,
    is_gone: Callable[[FrozenTrial], bool],
    spent: Callable[[str], float] = lambda _name: 0.0,
) -> list[int]:
    """Fail the running trials whose process is gone, and queue each once more; returns their numbers.

    ``is_gone(trial)`` tells; ``spent(name)``: seconds of training of a chain that are safe on disk. A
    repetition that came no further than the trial before it is not repeated: whatever killed its process
    twice would do so again.
    """
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not is_gone(trial):
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (RuntimeError, ValueError):  # another process was faster
            continue
        found.append(trial.number)
        seconds = spent(name_of(root_of(trial)))
        if REQUEUED not in trial.user_attrs or seconds > trial.user_attrs.get(SPENT, math.inf):
            _queue_again(study, trial, {REQUEUED: trial.number, SPENT: seconds})
    return found


def hand_back(study: optuna.Study, worker: str) -> None:
    """A worker that leaves closes the trial that it has not ended, and queues it for another.

    That killed nobody, so it does not count as a repetition that came no further.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(WORKER) == worker:
            with contextlib.suppress(RuntimeError, ValueError):  # the main process was faster
                study.tell(trial.number, state=TrialState.FAIL)
                _queue_again(study, trial, {REQUEUED: trial.number, SPENT: -1.0})


def is_running(study: optuna.Study, number: int) -> bool:
    """Whether a trial has not been closed, by this process or another."""
    return study.get_trials(deepcopy=False)[number].state == TrialState.RUNNING


def others_at_work(study: optuna.Study, worker: str) -> bool:
    """Whether a trial of another process is running."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return any(trial.user_attrs.get(WORKER) != worker for trial in running)


def _is_plain(space: Categorical) -> bool:
    """Whether Optuna can hold the choices themselves; else it holds their numbers."""
    return all(c is None or isinstance(c, bool | int | float | str) for c in space.choices)


def as_told(value: Any, space: Space) -> Any:
    """A value as Optuna knows it."""
    return space.choices.index(value) if isinstance(space, Categorical) and not _is_plain(space) else value


def as_meant(value: Any, space: Space) -> Any:
    """Inverse of :func:`as_told`."""
    return space.choices[value] if isinstance(space, Categorical) and not _is_plain(space) else value


def check_spaces(study: optuna.Study, spaces: Mapping[str, Space]) -> None:
    """Raise ConfigError where trials of the study were drawn from other choices, which Optuna can't mix.

    Of choices that Optuna can't hold it knows the numbers alone: the study remembers them in words.
    """
    for name, space in spaces.items():
        if isinstance(space, Categorical) and not _is_plain(space):
            before, now = study.user_attrs.get(f"choices of {name}"), repr(space.choices)
            if before not in (None, now):
                raise ConfigError(_OTHER_VALUES.format(name=name, before=before, now=now))
            study.set_user_attr(f"choices of {name}", now)
        for trial in study.get_trials(deepcopy=False):
            if (old := trial.distributions.get(name)) is None:
                continue
            try:
                optuna.distributions.check_distribution_compatibility(old, _distribution(space))
            except ValueError as error:
                raise ConfigError(_OTHER_VALUES.format(name=name, before=old, now=space)) from error


def _distribution(space: Space) -> optuna.distributions.BaseDistribution:
    if isinstance(space, Categorical):
        choices = space.choices if _is_plain(space) else tuple(range(len(space.choices)))
        return optuna.distributions.CategoricalDistribution(choices)
    if isinstance(space, Int):
        return optuna.distributions.IntDistribution(space.lower, space.upper, log=space.log)
    return optuna.distributions.FloatDistribution(space.lower, space.upper, log=space.log)


def suggest(trial: optuna.Trial, name: str, space: Space) -> Any:
    """A value of a space from the trial."""
    if isinstance(space, Categorical):
        if _is_plain(space):
            return trial.suggest_categorical(name, space.choices)
        return space.choices[trial.suggest_categorical(name, range(len(space.choices)))]
    if isinstance(space, Int):
        return trial.suggest_int(name, space.lower, space.upper, log=space.log)
    return trial.suggest_float(name, space.lower, space.upper, log=space.log)


def report_to(trial: optuna.Trial, first: int = 0) -> Any:
    """The ``report(step, score) -> stop`` callable of a trial; reports are numbered from ``first``."""
    count = first

    def report(_step: int, score: float) -> bool:
        nonlocal count
        try:
            trial.report(score, count)
        except optuna.exceptions.UpdateFinishedTrialError:  # the main process took this one for dead
            return True
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


def tell(study: optuna.Study, trial: optuna.Trial, score: float | None, *, pruned: bool = False) -> bool:
    """Close a trial: complete with its score, pruned, or failed (score None or NaN).

    Answers whether the sampler has more to try (one that goes over a grid comes to its end).
    """
    values: dict[str, Any] = {"values": score}
    if score is None or score != score:
        values = {"state": TrialState.FAIL}
    else:
        trial.set_user_attr(SCORE, score)
        if pruned:
            seen = study.get_trials(deepcopy=False)[trial.number].intermediate_values
            trial.report(score, max(seen, default=-1) + 1)  # which Optuna takes as the value
            values = {"state": TrialState.PRUNED}
    try:
        study.tell(trial, **values)
    except (RuntimeError, KeyError) as error:
        # Study.stop, which samplers call, answers so outside of Study.optimize; and the grid sampler looks
        # for its number in trials that were queued. Either way the trial is closed.
        if not study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            raise
        return isinstance(error, KeyError)
    return True
