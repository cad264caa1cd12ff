"""The majority class against a written-out score; the summary's lines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.estimator.baseline import majority_class, majority_row
from semseg_automl.estimator.leaderboard import summary_lines

MASKS = [np.array([[0, 0, 1], [2, 0, 0]], np.uint8), np.array([[1, 1, 0], [0, 0, 255]], np.uint8)]


def table() -> pd.DataFrame:
    images = [np.zeros((2, 3, 3), np.uint8)] * 2
    return pd.DataFrame({"image": pd.Series(images), "label": pd.Series(MASKS)})


def test_majority_class_everywhere() -> None:
    """Class 0 has 7 of 11 labelled pixels: IoU 7/11 for it, 0 for the others that occur."""
    samples = check_table(table(), need_label=True)
    scan = scan_masks(samples.masks or ())
    label_map = infer_label_map(scan)
    assert label_map.ignore == 255 and majority_class(scan, label_map) == 0
    row = majority_row(samples, label_map, scan, "mean_iou")
    assert row.score_val == pytest.approx(7 / 11 / 3) and row.state == "baseline"
    assert majority_row(samples, label_map, scan, "pixel_accuracy").score_val == pytest.approx(7 / 11)
    assert row.reason == "class 0 everywhere"


def test_summary_lines() -> None:
    lines = summary_lines(
        {
            "plan": ["image_size 384", "1 model"],
            "n_models": 1,
            "best_model": "default",
            "eval_metric": "iou",
            "score_val": 0.5,
            "steps": 10,
            "epochs": 2.5,
            "precision": "32-true",
            "device": "cuda:0",
            "seconds": {"total": 12.34, "import": 2.0},
        }
    )
    assert lines[:2] == ["Plan: image_size 384.", "Plan: 1 model."]
    assert "kept: default (iou 0.5000 on validation, 10 steps, 2.5 epochs, 32-true on cuda:0)" in lines[2]
    assert lines[3] == "Time: total 12.3 s, import 2.0 s."
    assert summary_lines({}) == ["No summary is stored beside this model."]
