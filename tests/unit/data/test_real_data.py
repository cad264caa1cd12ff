"""Whole real tables: classes as their makers documented them, every picture and mask consistent, fast."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from semseg_automl.data.frame import check_table
from semseg_automl.data.images import image_size, infer_scaling, read_image
from semseg_automl.data.labels import IGNORE, infer_label_map, presence, read_raw_mask, scan_masks
from semseg_automl.data.split import split_samples

SETS = [
    "camvid", "crack_forest", "defects_neu", "landcover_dubai", "leaf_disease", "nuclei_dsb2018",
    "polyp_clinicdb", "roads_massachusetts", "wbc_1",
]  # fmt: skip

pytestmark = pytest.mark.data


@pytest.mark.parametrize("name", SETS)
def test_classes_splits_and_round_trips(data_folder: Path, name: str) -> None:
    about = json.loads((data_folder / name / "classes.json").read_text(encoding="utf-8"))
    samples = check_table(data_folder / name / "train.csv", need_label=True)
    assert samples.masks is not None and len(samples) == about["counts"]["train"]
    scan = scan_masks(samples.masks, index=list(samples.index))
    label_map = infer_label_map(scan)
    assert label_map.problem_type == about["task"] and label_map.values == tuple(range(about["num_classes"]))
    assert infer_scaling(samples.images) is None
    train, val = split_samples(samples, scan, seed=0)
    found = presence(scan, label_map)
    assert found[train].any(0).all() and found[val].any(0).all()
    for i in range(0, len(samples), max(1, len(samples) // 8)):
        image, raw = read_image(samples.images[i]), read_raw_mask(samples.masks[i])
        assert image.shape[:2] == raw.shape[:2] == samples.sizes[i] == image_size(samples.masks[i])
        indices = label_map.encode(raw)
        np.testing.assert_array_equal(indices == IGNORE, raw == 255)
        np.testing.assert_array_equal(label_map.decode(indices), raw)


@pytest.mark.timing
def test_checking_and_scanning_camvid_takes_less_than_three_seconds(data_folder: Path) -> None:
    start = time.perf_counter()
    samples = check_table(data_folder / "camvid" / "train.csv", need_label=True)
    scan_masks(samples.masks or ())
    assert len(samples) == 367 and time.perf_counter() - start < 3.0
