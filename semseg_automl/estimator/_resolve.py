"""``fit``'s arguments, checked and turned into one frozen FitRequest. Pure: no files, no clock."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from numbers import Integral
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.core.reads import DECIDING, settled
from semseg_automl.data.augment import OWN
from semseg_automl.estimator._effects import check_effects
from semseg_automl.estimator._rules import check_hyperparameter
from semseg_automl.estimator.presets import DEFAULT_PRESET, PRESETS, Preset
from semseg_automl.peft.registry import resolve_method
from semseg_automl.search.configurations import completed, moved_inside
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.space import Categorical, Real, Space, split_hyperparameters

_LARGEST_SEED = 2**31 - 1


def find_preset(name: str | None) -> tuple[str, Preset]:
    """The preset of that name; None is the default."""
    name = DEFAULT_PRESET if name is None else name
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return name, PRESETS[name]


def resolve_request(
    *,
    presets: str | None,
    hyperparameters: Mapping[str, Any] | None,
    tune_kwargs: str | Mapping[str, Any] | None,
    devices: Any,
    num_workers: Any,
    seed: int,
    verbosity: int,
    storage: str | None,
    callbacks: Sequence[Callable[..., None]] | None,
) -> FitRequest:
    """Combine defaults, preset and the user's hyperparameters, in that order of strength.

    What only the data or the disk can tell (time limit, metric, backbone, folder) is added later.

    Raises
    ------
    ConfigError
        An unknown name (with a guess), a value out of its range, a wrong kind of argument.
    """
    name, preset = find_preset(presets)
    _check_plain(num_workers, seed)
    given = _as_dict(hyperparameters)
    fixed, spaces = split_hyperparameters(given)
    values = {k: v for k, v in preset.hyperparameters.items() if k not in spaces} | fixed
    own = values.pop("augment") if callable(values.get("augment")) else None
    _check_values(values, spaces)
    tune, auto = _tune_settings(tune_kwargs, preset, spaces)
    if own is not None:
        values["augment"] = _name_of(own, tune)
    if values.get("scales") is not None and "num_experts" not in given:
        values["num_experts"] = len(values["scales"])
    config = RunConfig().replace(**values)
    _check_together(config, spaces, given)
    check_effects(config, values, fixed, spaces)
    config = moved_inside(config, spaces)
    return FitRequest(
        config=config,
        given=frozenset(fixed if preset.search else values) | (frozenset(values) - {"max_epochs"}),
        spaces=spaces,
        tune=tune,
        auto_tune=auto,
        devices=devices,
        num_workers=num_workers,
        seed=int(seed),
        verbosity=verbosity,
        preset=name,
        size_factor=preset.size_factor,
        finish_share=preset.finish_share,
        storage=storage,
        own_augment=own,
        callbacks=tuple(callbacks or ()),
    )


def _as_dict(hyperparameters: Any) -> dict[str, Any]:
    if not isinstance(hyperparameters, Mapping | None):
        raise ConfigError(f"hyperparameters must be a dict of name -> value, got {hyperparameters!r}.")
    given = dict(hyperparameters or {})
    if "backbone" in given:
        raise ConfigError(
            "backbone is no hyperparameter: pass SemanticSegmentor(backbone=...), in a shell --backbone."
        )
    return given


def _check_plain(num_workers: Any, seed: Any) -> None:
    if num_workers != "auto" and (type(num_workers) is not int or num_workers < 0):
        raise ConfigError(f"num_workers must be 'auto' or a number of at least 0, got {num_workers!r}.")
    if type(seed) is bool or not isinstance(seed, Integral) or not 0 <= int(seed) <= _LARGEST_SEED:
        raise ConfigError(
            f"random_state (--seed) must be a whole number from 0 to {_LARGEST_SEED}, got {seed!r}."
        )


def _check_values(values: Mapping[str, Any], spaces: Mapping[str, Space]) -> None:
    for key, value in values.items():
        check_hyperparameter(key, value)
    for key, space in spaces.items():
        for value in _of_space(space):
            check_hyperparameter(key, value)


_TIED = ("adapter", "routing", "targets", "num_experts", "scales", "top_k", "qkv", "side_checkpoint")
"""Names whose values must go together."""


def _check_together(config: RunConfig, spaces: Mapping[str, Space], given: Container[str]) -> None:
    """Raise ConfigError where values don't go together, in the configuration or in a trial of the search.

    Where methods are searched, what one of them does not read is left out for it. The number of experts that
    the user has ``given`` follows no scales.
    """
    tied = {name: _of_space(spaces[name]) for name in _TIED if name in spaces}
    for values in itertools.product(*tied.values()):
        combination = dict(zip(tied, values, strict=True))
        found = config.replace(**combination)
        found = found if "num_experts" in given else completed(found, spaces)
        found = found if tied.keys().isdisjoint(DECIDING) else settled(found)
        try:
            resolve_method(found.adapter)
        except ConfigError as error:
            if not combination:
                raise
            where = ", ".join(f"{name}={value!r}" for name, value in combination.items())
            raise ConfigError(f"The search would come to {where}, which can't be: {error}") from error


def _of_space(space: Space) -> tuple[Any, ...]:
    """All choices, or the ends of a range; of real numbers one that is not whole, too."""
    if isinstance(space, Categorical):
        return tuple(space.choices)
    ends = (space.lower, space.upper)
    return (*ends, space.lower + (space.upper - space.lower) / math.pi) if isinstance(space, Real) else ends


def _name_of(own: Callable[..., Any], tune: TuneSettings | None) -> str:
    """What the configuration, which holds plain values, says of the user's own augmentation."""
    if tune is not None and (tune.num_workers or 1) > 1:
        raise ConfigError(
            f"num_workers={tune.num_workers} with an augment of your own: other processes can't have the "
            "function. Use num_workers=1, or augment by name."
        )
    return f"{OWN}{getattr(own, '__qualname__', type(own).__qualname__)}"


def _tune_settings(
    tune_kwargs: str | Mapping[str, Any] | None, preset: Preset, spaces: Mapping[str, Space]
) -> tuple[TuneSettings | None, bool]:
    """(settings or None for no search, whether the planner decides)."""
    if tune_kwargs is None:
        if spaces:
            raise ConfigError(
                f"hyperparameters give spaces for {', '.join(spaces)}, but hyperparameter_tune_kwargs=None "
                "turns the search off. Give single values, or leave hyperparameter_tune_kwargs at 'auto'."
            )
        return None, False
    if isinstance(tune_kwargs, str):
        if tune_kwargs != "auto":
            raise ConfigError(
                f"hyperparameter_tune_kwargs must be 'auto', None or a dict, got {tune_kwargs!r}."
            )
        return (TuneSettings(), True) if preset.search or spaces else (None, False)
    if not isinstance(tune_kwargs, Mapping):
        raise ConfigError(f"hyperparameter_tune_kwargs must be 'auto', None or a dict, got {tune_kwargs!r}.")
    known = {f.name for f in dataclasses.fields(TuneSettings)}
    for key in tune_kwargs:
        if key not in known:
            raise unknown_name("key of hyperparameter_tune_kwargs", key, known)
    settings = TuneSettings(**tune_kwargs)
    _check_tune_settings(settings)
    return settings, False


def _check_tune_settings(tune: TuneSettings) -> None:
    for name, option in (("num_trials", "--trials"), ("num_workers", "--search-workers")):
        value = getattr(tune, name)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(
                f"{name} of the search ({option}) must be a whole number of at least 1, got {value!r}."
            )
    for name, unit in (("max_memory", "MB"), ("max_latency", "seconds per picture")):
        value = getattr(tune, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise ConfigError(f"{name} must be a positive number of {unit}, got {value!r}.")
    own = [name for name in ("sampler", "pruner") if getattr(tune, name) is not None]
    if own and (tune.num_workers or 1) > 1:
        raise ConfigError(
            f"num_workers={tune.num_workers} with a {own[0]} of your own: other processes can't have the "
            f"object. Use num_workers=1, or leave {own[0]} out."
        )
