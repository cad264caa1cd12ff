"""How many trials a time holds, and where they are paused."""

from __future__ import annotations

import math

from semseg_automl.core.config import RunConfig
from semseg_automl.search.configurations import librarys_own, number_of
from semseg_automl.search.request import FitRequest
from semseg_automl.search.rungs import ETA, MAX_CHAINS, MAX_RUNGS, chain_cost, rung_ends
from semseg_automl.search.space import Categorical, Space

MAX_TRIALS = 20
"""Planned trials at most: where more would fit, each gets more time instead."""
SHORTEST_RUNG, RUNG_VALIDATIONS = 20.0, 8.0
"""A rung takes so many seconds at least (the network is built anew for each), and so many validations."""
LOOK_SHARE, LOOK_VALIDATIONS = 0.1, 6.0
"""Where a search was asked for in a time that does not hold two decent trainings, the default, the library's
own values (if they differ) and lower learning rates are looked at for this share of it each (or so many
validations), and the best one has the rest."""


def most_trials(request: FitRequest, config: RunConfig, spaces: dict[str, Space]) -> float:
    """As many as there are different models; no bound for the user's own sampler, which may repeat itself."""
    own = request.tune is not None and request.tune.sampler is not None
    return math.inf if own else number_of(config, spaces)


def number_of_trials(
    request: FitRequest, config: RunConfig, spaces: dict[str, Space], seconds: float, trial: float
) -> int:
    """How many trials of ``trial`` seconds fit; a search that was asked for has two if there are as many."""
    if request.tune is None or not spaces:
        return 1
    most = most_trials(request, config, spaces)
    if request.tune.num_trials is not None:
        return int(min(most, request.tune.num_trials))
    if not math.isfinite(seconds):
        return 1
    fitting = int(seconds / max(trial, 1e-6))
    asked_for = bool(request.spaces) or not request.auto_tune
    return int(min(most, max(2 if asked_for else 1, min(MAX_TRIALS, fitting))))


def may_pause(request: FitRequest) -> bool:
    """Whether trials may be paused: the user has decided neither pruning nor schedule, and their states
    are small (not an encoder that is tuned whole)."""
    tune, space = request.tune, request.spaces.get("adapter")
    adapters = space.choices if isinstance(space, Categorical) else (request.config.adapter.adapter,)
    decided = request.given | request.spaces.keys()
    free = tune is not None and tune.pruner is None and not {"schedule", "warmup"} & decided
    return free and "full" not in adapters


def numbers_of_looks(request: FitRequest, config: RunConfig, spaces: dict[str, Space]) -> tuple[int, ...]:
    """How many configurations should be looked at where time is short, or else how few.

    The default, the library's own values (if they differ) and each method that is a choice; or the first
    of them and one more.
    """
    methods, first = spaces.get("adapter"), 1 if librarys_own(config, spaces) == config else 2
    others = len(methods.choices) - 1 if isinstance(methods, Categorical) else 0
    most = most_trials(request, config, spaces)
    return tuple(int(min(most, first + more)) for more in (max(1, others), 1))


def looks(
    request: FitRequest,
    seconds: float,
    workers: int,
    decent: float,
    validation: float,
    numbers: tuple[int, ...],
) -> tuple[int, tuple[float, ...]] | None:
    """As :func:`plan_rungs`, where the time is too short for two decent trainings.

    The first of ``numbers`` that the time is enough for are begun. None where there is more time, where it is
    too short even for this, and where a number of trials is wanted or several processes train.
    """
    wanted = request.tune.num_trials if request.tune is not None else None
    if wanted is not None or workers > 1 or seconds >= 2.0 * decent:
        return None
    for number in numbers:
        longest = seconds / (ETA + number - 1)  # the best one goes on at least as far as from rung to rung
        look = min(longest, max(SHORTEST_RUNG, LOOK_SHARE * seconds, LOOK_VALIDATIONS * validation))
        if look >= SHORTEST_RUNG:
            return number, (look, seconds - (number - 1) * look)
    return None


def plan_rungs(
    request: FitRequest,
    trials: int,
    most: float,
    seconds: float,
    workers: int,
    horizon: float,
    validation: float,
) -> tuple[int, tuple[float, ...]]:
    """Number of trials, ``most`` of them, and the ends of their rungs, to fill ``seconds`` of each worker.

    A wanted number of trials decides how long they are; else their length (``horizon``, at least a
    decent training each) decides how many are started. As many rungs as leave one chain for the
    last; where two would be too short, ``trials`` of them run to their end.
    """
    wanted = request.tune.num_trials if request.tune is not None else None
    shortest = max(SHORTEST_RUNG, RUNG_VALIDATIONS * validation)
    for n_rungs in range(MAX_RUNGS, 1, -1):
        cost = chain_cost(n_rungs)
        top = max(horizon, shortest * ETA ** (n_rungs - 1))
        number = wanted or min(MAX_CHAINS * workers, int(workers * seconds / (cost * top)))
        number = int(min(number, most))
        if number >= ETA ** (n_rungs - 1):
            ends = rung_ends(min(seconds, workers * seconds / (cost * number)), shortest)
            if len(ends) >= n_rungs:
                return number, ends[-n_rungs:]
    return trials, (horizon,)


def why_no_search(request: FitRequest, config: RunConfig, spaces: dict[str, Space], remaining: float) -> str:
    """Why there is one trial, in words."""
    if request.tune is None:
        return "search is off"
    if request.tune.num_trials == 1:
        return "num_trials is 1"
    if not spaces:
        return "nothing is left to search"
    if number_of(config, spaces) == 1:
        return f"the choices of {', '.join(spaces)} are one model"
    return (
        "the time holds one decent training"
        if math.isfinite(remaining)
        else "max_epochs without a time limit"
    )
