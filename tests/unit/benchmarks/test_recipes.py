"""Recipes on folds of videos: no video on two sides, the test table untouched, differences of pairs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks.quality import recipes
from benchmarks.quality.recipes import DEFAULT, FOLDS, FRAMES, RECIPES, VIDEOS, Run, frames_of_folds, page
from semseg_automl.core.config import RunConfig
from semseg_automl.estimator._rules import check_hyperparameter


def test_folds_are_whole_videos_and_hold_every_frame_once() -> None:
    folds = frames_of_folds()
    assert sorted(itertools.chain(*folds)) == list(range(FRAMES))
    for first, last in zip(VIDEOS, [*VIDEOS[1:], FRAMES + 1], strict=True):
        assert sum(not set(fold).isdisjoint(range(first - 1, last - 1)) for fold in folds) == 1


@pytest.mark.parametrize("fold", range(FOLDS))
def test_training_validation_and_test_share_no_frame(fold: int) -> None:
    rows = Run(recipe=DEFAULT, fold=fold).training().rows
    assert rows is not None and sum(map(len, rows)) == FRAMES
    assert len(set(itertools.chain(*rows))) == FRAMES


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_configurations_at_the_same_price(recipe: str) -> None:
    training = Run(recipe=recipe, fold=0).training()
    for name, value in training.hyperparameters.items():
        check_hyperparameter(name, value)
    RunConfig().replace(**training.hyperparameters)
    h, w = training.hyperparameters["crop_size"]
    assert training.steps is not None
    assert training.steps * h * w == pytest.approx(recipes.STEPS * 384 * 480, rel=0.01)


def test_the_table_holds_differences_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "RESULTS", tmp_path)
    scores = {(DEFAULT, 0): 0.5, (DEFAULT, 1): 0.7, ("augment medium", 0): 0.6, ("augment medium", 1): 0.84}
    scores["augment medium", 2] = 0.9  # no default beside it
    for (recipe, fold), score in scores.items():
        run = Run(recipe=recipe, fold=fold)
        run.path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"test_score": score, "test_score_scales": score, "validation_score": score}
        run.path.write_text(json.dumps({"recipe": recipe, "fold": fold, "seed": 0, **kept}), encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in page().splitlines() if line.startswith("| ")}
    assert rows[DEFAULT].startswith("| default | 0.600 ± 0.100 (2) |")
    assert rows["augment medium"].startswith("| augment medium | +0.120 ± 0.020 (2) |")
    assert rows["weight decay 0.05"].endswith("| - | - | - |")
