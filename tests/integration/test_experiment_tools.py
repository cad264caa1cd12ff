"""Loggers and Optuna callbacks of a fit."""

from __future__ import annotations

import csv
from pathlib import Path

import optuna
import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from semseg_automl.core.errors import ConfigError
from tests.integration.quick import NO_SEARCH, SMALL, tiny


def test_scores_and_losses_are_in_csv_files(textures: pd.DataFrame, tmp_path: Path) -> None:
    own = CSVLogger(tmp_path / "own", name="fit", version="a")
    seg = tiny(tmp_path / "m").fit(textures, **NO_SEARCH, loggers=["csv", own])
    with open(tmp_path / "m" / "logs" / "default" / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["final_score"]) for r in rows if r["final_score"]] == [pytest.approx(seg.best_score_)]
    assert all(float(r["loss"]) > 0 for r in rows if r["loss"]) and any(r["loss"] for r in rows)
    with open(tmp_path / "own" / "fit" / "a" / "metrics.csv", encoding="utf-8") as file:
        assert "default/final_score" in next(csv.reader(file))


def test_tensorboard_shows_losses_scores_and_hyperparameters(textures: pd.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "runs", name="fit", version="a")
    seg = tiny(tmp_path / "m").fit(textures, **NO_SEARCH, loggers=logger)
    events = EventAccumulator(str(tmp_path / "runs" / "fit" / "a"))
    events.Reload()
    assert [e.value for e in events.Scalars("default/final_score")] == [pytest.approx(seg.best_score_)]
    assert events.Scalars("default/loss")[0].step == 1
    assert all(e.value > 0 for e in events.Scalars("default/loss"))
    assert "default/rank: 4" in (tmp_path / "runs" / "fit" / "a" / "hparams.yaml").read_text("utf-8")


def test_mlflow_holds_losses_scores_and_hyperparameters(textures: pd.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.tracking import MlflowClient

    where = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = MLFlowLogger(experiment_name="polyps", tracking_uri=where)
    seg = tiny(tmp_path / "m").fit(textures, **NO_SEARCH, loggers=["csv", logger])
    run = MlflowClient(where).get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.data.params["default/rank"] == "4"
    assert run.data.metrics["default/final_score"] == pytest.approx(seg.best_score_)
    assert run.data.metrics["default/loss"] > 0
    assert (tmp_path / "m" / "logs" / "default" / "metrics.csv").is_file()


def test_wandb_holds_losses_scores_and_hyperparameters(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its server."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="polyps", save_dir=str(tmp_path), offline=True)
    seg = tiny(tmp_path / "m").fit(textures, **NO_SEARCH, loggers=["csv", logger])
    try:
        assert logger.experiment.config["default/rank"] == 4
        assert logger.experiment.summary["default/final_score"] == pytest.approx(seg.best_score_)
        assert logger.experiment.summary["default/loss"] > 0
    finally:
        wandb.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_no_logger_no_files(textures: pd.DataFrame, tmp_path: Path) -> None:
    tiny(tmp_path / "m").fit(textures, **NO_SEARCH, loggers=None)
    assert not (tmp_path / "m" / "logs").exists()
    with pytest.raises(ConfigError, match="loggers must be"):
        tiny(tmp_path / "n").fit(textures, **NO_SEARCH, loggers="wandb")
    assert not (tmp_path / "n").exists()


def test_optuna_callbacks_may_stop_the_search(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Optuna's own MaxTrialsCallback; the best model is still there."""
    seen: list[int] = []
    seg = tiny(tmp_path / "m").fit(
        textures,
        hyperparameters=SMALL,
        hyperparameter_tune_kwargs={"num_trials": 6},
        callbacks=[
            lambda study, trial: seen.append(trial.number),
            optuna.study.MaxTrialsCallback(2, states=None),
        ],
    )
    assert seen == [0, 1] and len(seg.study_.trials) == 2 and seg.best_score_ >= 0
