"""What a search tries next: the default, the library's own values, a portfolio, then what the sampler draws.

No configuration is tried twice, under whatever values of hyperparameters that have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from semseg_automl.core.config import RunConfig
from semseg_automl.core.reads import idle, settled
from semseg_automl.search.configurations import completed, drawn, every, librarys_own, moved_inside
from semseg_automl.search.rungs import Chain
from semseg_automl.search.space import Categorical, Int, Space
from semseg_automl.search.study import (
    CONSTRAINTS,
    PLACE,
    PRUNED,
    ROOT,
    as_meant,
    as_told,
    chains_of,
    suggest,
    values_of,
)

PORTFOLIO: tuple[dict[str, float], ...] = (
    {"learning_rate": 0.25, "decoder_learning_rate": 0.25, "rank": 0.75},
    {"learning_rate": 0.75, "decoder_learning_rate": 0.75},
)
"""What is tried after the default, the library's own values and every method that is a choice, as places in
the spaces (0 the lower end, 1 the upper one): a wrong learning rate costs more than anything else that is
searched. The lower rate comes first: a higher one is soon ahead (polyp_clinicdb after 32 s: 0.51 against the
default's 0.36 on the validation pictures) and may come no further (0.50 after 220 s), a lower one that is
ahead early is better."""
_DRAWS = 20
"""How often the sampler is asked for a configuration that was not tried yet."""


def enqueue_default(study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]) -> None:
    """Make the default configuration, or what of the spaces is nearest to it, the first trial."""
    _enqueue(study, moved_inside(config, spaces), spaces, {})


def enqueue_from_portfolio(study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]) -> bool:
    """Queue what of the library's own values and the portfolio comes next; False where none is left.

    One at a time, so that a trial that was lost and is queued once more need not wait for all of them.
    What is in the study already is not tried twice.
    """
    begun = [t.user_attrs[PLACE] for t in study.get_trials(deepcopy=False) if PLACE in t.user_attrs]
    seen = tried(study, config, spaces)
    for number, entry in enumerate(_portfolio(config, spaces)):
        if number > max(begun, default=-1) and settled(entry) not in seen:
            _enqueue(study, entry, spaces, {PLACE: number})
            return True
    return False


def _portfolio(config: RunConfig, spaces: Mapping[str, Space]) -> list[RunConfig]:
    """The library's own values, with every method that may be chosen, then at other places."""
    own = librarys_own(config, spaces)
    found, methods = [own], spaces.get("adapter")
    if isinstance(methods, Categorical):
        found += [own.replace(adapter=m) for m in methods.choices if m != own.adapter.adapter]
    for places in PORTFOLIO:
        changed = {n: place_in(spaces[n], p) for n, p in places.items() if n in spaces and n not in idle(own)}
        found.append(completed(own.replace(**changed), spaces))
    return found


def place_in(space: Space, place: float) -> Any:
    """The value at ``place`` (0..1) of a range (of its logarithm where that is searched) or of choices."""
    if isinstance(space, Categorical):
        return space.choices[min(len(space.choices) - 1, int(place * len(space.choices)))]
    low, high = float(space.lower), float(space.upper)
    value = low * (high / low) ** place if space.log else low + (high - low) * place
    return round(value) if isinstance(space, Int) else value


def propose(study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]) -> bool:
    """Queue what the study's sampler draws from the chains, one trial each; False where nothing is new.

    The earlier trials of a chain hold the same parameters with worse scores: a sampler that saw
    them would take a configuration that did well for one that did badly, too. A paused chain counts
    by its rung first, then by its score there (TPE ranks what was pruned in this order).
    """
    view = optuna.create_study(direction="maximize", sampler=study.sampler)
    trials = study.get_trials(deepcopy=False)
    for chain in chains_of(trials):
        found = _as_seen(chain, trials)
        if found is not None:
            view.add_trial(found)
    seen = tried(study, config, spaces)
    for _ in range(_DRAWS):
        trial = view.ask()
        new = drawn(config, spaces, partial(suggest, trial))
        if settled(new) not in seen:
            study.enqueue_trial(trial.params)
            return True
    known = every(config, spaces)
    rest = [new] if known is None else [c for c in known if c not in seen]
    if rest:
        _enqueue(study, rest[0], spaces, {})
    return bool(rest)


def is_used_up(study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]) -> bool:
    """Whether every configuration of the spaces is in the study."""
    found = every(config, spaces)
    return found is not None and tried(study, config, spaces).issuperset(found)


def tried(study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space]) -> set[RunConfig]:
    """The configurations that the study's trials have or wait for, ``settled``."""
    found = set()
    for trial in study.get_trials(deepcopy=False):
        if ROOT not in trial.user_attrs:
            values = {n: as_meant(v, spaces[n]) for n, v in values_of(trial).items() if n in spaces}
            found.add(settled(completed(config.replace(**values), spaces)))
    return found


def _enqueue(
    study: optuna.Study, config: RunConfig, spaces: Mapping[str, Space], attributes: dict[str, Any]
) -> None:
    flat, left_out = config.flat(), idle(config)
    values = {name: as_told(flat[name], space) for name, space in spaces.items() if name not in left_out}
    study.enqueue_trial(values, user_attrs=attributes)


def _as_seen(chain: Chain, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """What a sampler sees of a chain: its latest result, or that it is running for the first time."""
    if chain.last is None:
        first = trials[chain.root]
        return first if first.state == TrialState.RUNNING else None
    trial = trials[chain.last]
    if trial.state != TrialState.PRUNED or PRUNED in trial.user_attrs:
        return trial
    return optuna.trial.create_trial(
        state=TrialState.PRUNED,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values={len(chain.scores): chain.scores[-1]},
        system_attrs={k: v for k, v in trial.system_attrs.items() if k == CONSTRAINTS},
    )
