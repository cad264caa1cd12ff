"""``semseg-automl fit``: options and a configuration file become the estimator's arguments."""

from __future__ import annotations

import argparse
import inspect
import os
import tomllib
from collections.abc import Mapping
from typing import Any

from semseg_automl import SemanticSegmentor
from semseg_automl.artifacts.layout import holds_model
from semseg_automl.cli.arguments import verbosity_of
from semseg_automl.cli.output import as_json, say
from semseg_automl.cli.values import (
    parse_devices,
    parse_hyperparameters,
    parse_number,
    parse_raw_value,
    parse_words,
)
from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.metrics.registry import score_name
from semseg_automl.search import space

_NOT_IN_FILES = {"self", "y", "callbacks", "loggers"}  # of objects, which no file holds
_SAME = (
    *("problem_type", "image", "label", "eval_metric", "backbone", "path", "time_limit", "tuning_data"),
    *("holdout_frac", "groups", "presets", "storage", "init_from", "resume"),
)
_OF_THE_SEARCH = {
    "trials": "num_trials",
    "search_workers": "num_workers",
    "max_memory": "max_memory",
    "max_latency": "max_latency",
}
"""Options -> keys of ``hyperparameter_tune_kwargs``."""
_PATHS = ("train_data", "tuning_data", "path", "init_from")


def fit(args: argparse.Namespace) -> int:
    """Train a model; prints its folder and its score. The first Ctrl-C keeps the best so far."""
    values = settings(args)
    of_constructor = values.keys() & _names(SemanticSegmentor.__init__)
    seg = SemanticSegmentor(**{name: values.pop(name) for name in sorted(of_constructor)})
    train_data = values.pop("train_data")
    seg.fit(train_data, **values)
    if not holds_model(seg.path_):  # such as on a full disk: in memory only, which ends with this process
        seg.save()
    if args.json:
        say(as_json(_result(seg)))
        return 0
    say(f"{score_name(seg.eval_metric_, seg.problem_type_)} on validation: {seg.best_score_:.4f}")
    say(f"model: {seg.path_}")
    return 0


def _result(seg: SemanticSegmentor) -> dict[str, Any]:
    summary = seg.fit_summary(show=False)
    known = ("best_model", "metrics_val", "state", "n_models", "seconds")
    return {
        "path": str(seg.path_),
        "eval_metric": seg.eval_metric_,
        "score_val": seg.best_score_,
        "classes": [str(name) for name in seg.classes_],
        **{name: summary.get(name) for name in known},
    }


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the constructor and of ``fit`` by name: the file's, and over them the options'."""
    values = {} if args.config is None else read_config(args.config)
    if args.verbose or args.quiet or "verbosity" not in values:
        values["verbosity"] = verbosity_of(args)
    values |= {name: value for name, value in _options(args).items() if value is not None}
    asked = {name: getattr(args, option) for option, name in _OF_THE_SEARCH.items()}
    asked = {name: value for name, value in asked.items() if value is not None}
    if args.no_search:
        if asked:
            raise ConfigError(f"--no-search leaves no place for {', '.join(asked)}. Leave one of them out.")
        values["hyperparameter_tune_kwargs"] = None
    elif asked:
        before = values.get("hyperparameter_tune_kwargs")
        values["hyperparameter_tune_kwargs"] = (before if isinstance(before, dict) else {}) | asked
    if args.ignore_index is not None:  # "none" is a value
        values["ignore_index"] = parse_raw_value(args.ignore_index)
    if "train_data" not in values:
        raise ConfigError(f"--config {args.config!r} has no train_data. Add it, or give TRAIN.csv.")
    return values


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Options by the name of the argument they set; None where not given."""
    return {
        **{name: getattr(args, name) for name in _SAME},
        "train_data": args.train,
        "classes": parse_words(args.classes, "--classes"),
        "random_state": args.seed,
        "hyperparameters": parse_hyperparameters(args.hyperparameters),
        "devices": None if args.devices is None else parse_devices(args.devices),
        "num_workers": None if args.num_workers is None else parse_number(args.num_workers),
    }


def _names(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - _NOT_IN_FILES


def read_config(path: str) -> dict[str, Any]:
    """Read a TOML file of arguments of ``SemanticSegmentor`` and its ``fit``, by their names.

    Paths of tables and folders are relative to the file. A hyperparameter is a value, a list of choices,
    or a table: ``{lower = 2, upper = 32, log = true}``. ``classes`` is a list of names, or a table whose keys
    are raw values (``0``) or colours (``"(0, 0, 0)"``). The text "none" stands for None, which TOML lacks.

    Raises
    ------
    ConfigError
        The file can't be read, is no TOML, or names an argument that there is not.
    """
    try:
        with open(path, "rb") as stream:
            values = tomllib.load(stream)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path!r} can't be read: {error}") from error
    known = _names(SemanticSegmentor.__init__) | _names(SemanticSegmentor.fit)
    for name in values:
        if name not in known:
            raise unknown_name(f"argument in {path}:", name, known)
    values = {name: None if value == "none" else value for name, value in values.items()}
    folder = os.path.dirname(os.path.abspath(path))
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = os.path.join(folder, os.path.expanduser(values[name]))
    if isinstance(values.get("classes"), dict):
        names = values["classes"].items()
        values["classes"] = {parse_raw_value(raw): None if name == "none" else name for raw, name in names}
    given = values.get("hyperparameters")
    if isinstance(given, dict):
        values["hyperparameters"] = {name: _hyperparameter(name, value) for name, value in given.items()}
    return values


def _hyperparameter(name: str, value: Any) -> Any:
    """A table as a range; "none" as None."""
    if not isinstance(value, Mapping):
        return None if value == "none" else value
    ends = value.get("lower"), value.get("upper")
    known = value.keys() <= {"lower", "upper", "log"} and isinstance(value.get("log", False), bool)
    if not known or not all(type(end) in (int, float) for end in ends):
        raise ConfigError(
            f"Hyperparameter {name!r}: a table is a range, such as {{lower = 2, upper = 32, log = true}}; "
            f"got {dict(value)!r}."
        )
    whole = all(isinstance(end, int) for end in ends)
    return (space.Int if whole else space.Real)(**value)
