"""Silence where silence was asked for, and other libraries' settings left as found."""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from tests.integration.quick import NO_SEARCH, SMALL, python, tiny

LIGHTNING = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def test_verbosity_zero_prints_nothing(textures: pd.DataFrame, tmp_path: Path) -> None:
    """In a fresh process, where warnings and loggers are as Python starts them."""
    textures.to_csv(tmp_path / "train.csv", index=False)
    code = (
        "from semseg_automl import SemanticSegmentor\n"
        "seg = SemanticSegmentor(backbone='sam_tiny', path='m', verbosity=0)\n"
        f"seg.fit('train.csv', hyperparameters={SMALL!r}, hyperparameter_tune_kwargs=dict(num_trials=2))\n"
        "seg.predict('train.csv'); seg.evaluate('train.csv'); seg.leaderboard()\n"
        "SemanticSegmentor.load('m', verbosity=0).predict_proba('train.csv')\n"
    )
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loggers_warnings_and_generators_are_left_as_found(textures: pd.DataFrame, tmp_path: Path) -> None:
    import torch

    def state() -> list[object]:
        names = (*LIGHTNING, "semseg_automl", "optuna", "")
        loggers = [logging.getLogger(n) for n in names]
        return [
            [(log.level, list(log.handlers), log.propagate, log.disabled) for log in loggers],
            optuna.logging.get_verbosity(),
            list(warnings.filters),
            np.random.get_state()[1].tolist(),
            random.getstate(),
            torch.random.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        ]

    tiny(tmp_path / "first").fit(textures[:4], **NO_SEARCH)  # imports are over
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        before = state()
        tiny(tmp_path / "m").fit(
            textures, hyperparameters=SMALL, hyperparameter_tune_kwargs={"num_trials": 2}
        ).predict(textures)
        assert state() == before
    finally:
        logging.getLogger("lightning.pytorch").setLevel(logging.NOTSET)
        optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.mark.parametrize(("verbosity", "shown"), [(1, ""), (2, "Plan: 1 model: search is off.")])
def test_verbosity_decides_what_is_shown(
    verbosity: int,
    shown: str,
    textures: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny(tmp_path / "m", verbosity=verbosity).fit(textures, **NO_SEARCH)
    levels = {r.levelno for r in caplog.records if r.name.startswith("semseg_automl")}
    assert shown in caplog.text and (logging.INFO in levels) == (verbosity >= 2)
