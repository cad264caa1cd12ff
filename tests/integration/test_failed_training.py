"""A training that fails for good in its middle: what it had validated is the model, and that is told."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import TrainingError
from semseg_automl.training.module import SegmentationModule
from tests.integration.quick import SMALL, tiny

HYPER = {**SMALL, "max_epochs": 4, "batch_size": 2}  # 20 steps


def fails_from(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = itertools.count(), SegmentationModule.training_step

    def step(self: SegmentationModule, batch: Any, index: int) -> torch.Tensor:
        if next(calls) >= first:
            raise RuntimeError("no kernel image is available")
        return real(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", step)


@pytest.mark.parametrize("tune", [None, {"num_trials": 2}], ids=["no search", "two trials"])
def test_after_validations_the_best_of_them_is_kept(
    tune: dict | None,
    textures: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        fails_from(15, patched)
        seg = tiny(tmp_path / "m", verbosity=1).fit(
            textures, hyperparameters=HYPER, hyperparameter_tune_kwargs=tune
        )
    assert "Training failed: RuntimeError: no kernel image is available" in caplog.text
    assert "The best weights validated before are kept" in caplog.text
    row = seg.leaderboard().set_index("model").loc["default"]
    assert row["state"] == "failed" and "no kernel" in row["reason"]
    summary = seg.fit_summary(show=False)
    assert 0 < summary["steps"] < 20 and summary["state"] == "failed"
    assert row["score_val"] == seg.best_score_ and seg.best_score_ in [h[2] for h in summary["history"]]
    loaded = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert len(loaded.predict(textures)) == len(textures)
    again = tiny(tmp_path / "m").fit(
        textures, resume=True, hyperparameters=HYPER, hyperparameter_tune_kwargs=None
    )
    assert again.best_score_ >= seg.best_score_


def test_before_any_validation_the_cause_is_raised(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_from(0, monkeypatch)
    with pytest.raises(TrainingError, match=r"no kernel image is available\. No model is kept in"):
        tiny(tmp_path / "m").fit(textures, hyperparameters=HYPER, hyperparameter_tune_kwargs=None)
