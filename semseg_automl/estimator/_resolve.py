"""``fit``'s arguments, checked and turned into one frozen FitRequest. Pure: no files, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.estimator.presets import DEFAULT_PRESET, PRESETS, Preset
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.space import Space, split_hyperparameters

_POSITIVE = (
    "rank",
    "alpha",
    "num_experts",
    "top_k",
    "batch_size",
    "max_epochs",
    "num_queries",
    "learning_rate",
    "decoder_learning_rate",
)
_CHOICES = {
    "routing": ("learned", "dense", "compat"),
    "gate_scope": ("image", "window"),
    "window_padding": ("image", "window"),
    "nonlinearity": ("none", "gelu"),
    "qkv": ("fused", "separate"),
    "head": ("semantic", "mask_classification"),
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("cosine", "wsd", "constant"),
}


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
    time_limit: float | None,
    backbone: str,
    eval_metric: str,
    devices: Any,
    num_workers: Any,
    seed: int,
    verbosity: int,
    storage: str | None,
    folder: Path,
    callbacks: Sequence[Callable[..., None]] | None,
) -> FitRequest:
    """Combine defaults, preset and the user's hyperparameters, in that order of strength.

    Raises
    ------
    ConfigError
        An unknown name (with a guess), a value out of its range, a wrong kind of argument.
    """
    name, preset = find_preset(presets)
    given = dict(hyperparameters or {})
    if "backbone" in given:
        raise ConfigError("backbone is an argument of SemanticSegmentor, not a hyperparameter.")
    fixed, spaces = split_hyperparameters(given)
    values = {k: v for k, v in preset.hyperparameters.items() if k not in spaces} | fixed
    for key, value in values.items():
        _check(key, value)
    tune, auto = _tune_settings(tune_kwargs, preset, spaces)
    return FitRequest(
        config=RunConfig().replace(**values, backbone=backbone),
        given=frozenset(values),
        spaces=spaces,
        tune=tune,
        auto_tune=auto,
        time_limit=time_limit,
        eval_metric=eval_metric,
        devices=devices,
        num_workers=num_workers,
        seed=seed,
        verbosity=verbosity,
        preset=name,
        storage=storage,
        folder=folder,
        callbacks=tuple(callbacks or ()),
    )


def _check(name: str, value: Any) -> None:
    if name in _CHOICES and value not in _CHOICES[name]:
        raise unknown_name(f"value for hyperparameter {name!r}:", value, _CHOICES[name])
    if name in _POSITIVE and not (
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    ):
        raise ConfigError(f"Hyperparameter {name!r} must be a positive number, got {value!r}.")
    if name == "image_size":
        sides = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(s, int) and s >= 32 for s in sides) or len(sides) > 2:
            raise ConfigError(
                f"image_size is a long side or (height, width) of at least 32 pixels, got {value!r}."
            )


def _tune_settings(
    tune_kwargs: str | Mapping[str, Any] | None, preset: Preset, spaces: Mapping[str, Space]
) -> tuple[TuneSettings | None, bool]:
    """(settings or None for no search, whether the planner decides)."""
    if tune_kwargs is None:
        if spaces:
            raise ConfigError(
                f"hyperparameters give spaces for {', '.join(spaces)}, but hyperparameter_tune_kwargs=None turns "
                "the search off. Give single values, or leave hyperparameter_tune_kwargs at 'auto'."
            )
        return None, False
    if isinstance(tune_kwargs, str):
        if tune_kwargs != "auto":
            raise ConfigError(
                f"hyperparameter_tune_kwargs must be 'auto', None or a dict, got {tune_kwargs!r}."
            )
        return (TuneSettings(), True) if preset.search or spaces else (None, False)
    known = {"num_trials", "sampler", "pruner", "num_workers"}
    for key in tune_kwargs:
        if key not in known:
            raise unknown_name("key of hyperparameter_tune_kwargs", key, known)
    trials = tune_kwargs.get("num_trials")
    if trials is not None and (not isinstance(trials, int) or trials < 1):
        raise ConfigError(f"num_trials must be a whole number of at least 1, got {trials!r}.")
    if tune_kwargs.get("num_workers") not in (None, 1):
        raise ConfigError(
            "num_workers of the search: trials run one after another here; use 1 or leave it out."
        )
    return TuneSettings(**tune_kwargs), False
