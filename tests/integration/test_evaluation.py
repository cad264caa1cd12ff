"""evaluate and score with every metric, with functions and with intervals, on fitted models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ConfigError
from semseg_automl.metrics.registry import METRICS
from tests.integration.quick import NO_SEARCH, tiny

BOUNDARY = ["kappa", "boundary_f", "hausdorff_95", "cl_dice"]


def right(truth: np.ndarray, prediction: np.ndarray) -> float:
    return float((truth == prediction).mean())


def test_every_metric_by_name(binary: SemanticSegmentor, binary_textures: pd.DataFrame) -> None:
    names = list(METRICS)
    found = binary.evaluate(binary_textures, names)
    assert list(found) == names and np.isfinite(list(found.values())).all()
    rows = binary.evaluate(binary_textures, names, per_image=True)
    assert list(rows) == names and rows.index.equals(binary_textures.index)
    for name in ("s_measure", "weighted_f_measure", "boundary_f", "hausdorff_95"):
        assert rows[name].mean() == pytest.approx(found[name])


def test_multiclass(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    assert np.isfinite(list(multiclass.evaluate(textures, BOUNDARY).values())).all()
    with pytest.raises(ConfigError, match="not for multiclass"):
        multiclass.evaluate(textures, "e_measure")


def test_functions(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    found = multiclass.evaluate(textures, right)
    assert found["right"] == pytest.approx(
        multiclass.evaluate(textures, "pixel_accuracy", per_image=True)["pixel_accuracy"].mean()
    )
    assert list(multiclass.evaluate(textures, ["dice", right], per_image=True)) == ["dice", "right"]


def test_intervals(binary: SemanticSegmentor, binary_textures: pd.DataFrame) -> None:
    metrics = ["iou", "s_measure", right]
    frame = binary.evaluate(binary_textures, metrics, confidence=0.9)
    assert list(frame.index) == ["iou", "s_measure", "right"] and list(frame) == ["value", "low", "high"]
    assert frame["value"].to_dict() == binary.evaluate(binary_textures, metrics)
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert frame.equals(binary.evaluate(binary_textures, metrics, confidence=0.9))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        binary.evaluate(binary_textures, confidence=95)
    with pytest.raises(ConfigError, match="per_class"):
        binary.evaluate(binary_textures, confidence=0.9, per_class=True)


def test_an_error_measured_per_picture_as_eval_metric(tmp_path: Path, textures: pd.DataFrame) -> None:
    seg = tiny(tmp_path / "model", eval_metric="hausdorff_95").fit(textures, **NO_SEARCH)
    assert seg.best_score_ < 0
    assert seg.score(textures) == pytest.approx(-seg.evaluate(textures, "hausdorff_95")["hausdorff_95"])
    assert seg.leaderboard(textures)["score_test"].notna().any()


def test_tables_per_class_and_per_image(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    shuffled = textures.sample(frac=1, random_state=0)
    pictures = multiclass.evaluate(shuffled, ["dice"], per_image=True)
    assert pictures.index.equals(shuffled.index) and list(pictures) == ["dice"]
    classes = multiclass.evaluate(textures, per_class=True)
    assert list(classes.index) == list(multiclass.classes_)
    assert classes["iou"].mean() == pytest.approx(multiclass.evaluate(textures)["mean_iou"])
    with pytest.raises(ConfigError, match="ask for one of them"):
        multiclass.evaluate(textures, per_class=True, per_image=True)
