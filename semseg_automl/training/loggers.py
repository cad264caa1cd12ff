"""Where losses and scores of a fit's models are written down: Lightning's loggers, CSV files by default."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow

_LOG = get_logger("training")
CSV = "csv"
FOLDER = "logs"
EVERY = 10
"""Steps between two losses that are written down: some loggers send each one over the network."""


def check_loggers(given: Any) -> tuple[Any, ...]:
    """``fit``'s argument ``loggers`` as a tuple of "csv" and Lightning loggers.

    Raises
    ------
    ConfigError
        Something else is among them.
    """
    if given is None:
        return ()
    several = tuple(given) if isinstance(given, list | tuple) else (given,)
    for one in several:
        if one != CSV and not isinstance(one, Logger):
            raise ConfigError(
                f"loggers must be 'csv', None, a Lightning logger such as "
                f"lightning.pytorch.loggers.TensorBoardLogger('runs'), or a list of these; got {one!r}."
            )
    return several


class FitLog:
    """Writes what the models of one fit report.

    "csv" makes a file ``logs/<model>/metrics.csv`` in the model's folder for each model; a Lightning logger
    gets the same values under ``<model>/loss`` (every tenth step), ``<model>/score`` (every validation;
    greater is better) and, at the end, the hyperparameters. A logger that raises is left out from then
    on, with a warning: a fit does not fail for its diary.
    """

    def __init__(self, loggers: Iterable[Any], folder: Path) -> None:
        given = tuple(loggers)
        self._csv = CSV in given
        self._folder = folder
        self._objects: list[Logger] = [one for one in given if one != CSV]
        self._files: dict[str, Logger] = {}

    def progress(self, event: Mapping[str, Any]) -> None:
        """Take a training's progress event (see ``training.job.Hooks``; ``model`` is its name)."""
        step, values = int(event.get("step", 0)), {}
        if step % EVERY == 0 or step == 1:
            values["loss"] = float(event.get("loss", math.nan))
        values["score"] = float(event.get("validated", math.nan))
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        if values:
            self._metrics(str(event.get("model", "")), values, step)

    def close(self, rows: Iterable[ModelRow]) -> None:
        """Write down what each model ended with, and finish every logger."""
        for row in rows:
            if not row.config:  # the commonest class everywhere
                continue
            config = {name: value for name, value in row.config.items() if value is not None}
            for logger, prefix in self._of(row.model):
                self._guard(logger, "log_hyperparams", {prefix + name: v for name, v in config.items()})
            if not math.isnan(row.score_val):
                self._metrics(row.model, {"final_score": row.score_val}, row.steps)
        for logger in [*self._files.values(), *self._objects]:
            self._guard(logger, "save")
            self._guard(logger, "finalize", "success")

    def _metrics(self, model: str, values: Mapping[str, float], step: int) -> None:
        for logger, prefix in self._of(model):
            self._guard(logger, "log_metrics", {prefix + name: value for name, value in values.items()}, step)

    def _of(self, model: str) -> list[tuple[Logger, str]]:
        """The loggers that a model's values go to, each with what stands before their names."""
        if self._csv and model not in self._files:
            self._files[model] = CSVLogger(
                self._folder, name=FOLDER, version=self._free(model), flush_logs_every_n_steps=1
            )
        own = [(self._files[model], "")] if model in self._files else []
        return [*own, *((one, f"{model}/") for one in self._objects)]

    def _guard(self, logger: Logger, method: str, *arguments: Any) -> None:
        """Call a logger's method; one that raises is left out from then on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice of Lightning's loggers
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:
                _LOG.warning("The logger %s failed and is left out: %s", type(logger).__name__, error)
                self._objects = [one for one in self._objects if one is not logger]
                self._csv = self._csv and logger not in self._files.values()
                self._files = {name: one for name, one in self._files.items() if one is not logger}

    def _free(self, model: str) -> str:
        """A folder's name that no earlier run has taken."""
        name, number = model, 1
        while (self._folder / FOLDER / name).exists():
            number += 1
            name = f"{model}_{number}"
        return name
