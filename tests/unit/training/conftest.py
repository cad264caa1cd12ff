"""A training job on the test backbone, small enough for hundreds of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from semseg_automl.training.job import TrainJob


@pytest.fixture
def make_job(textures: pd.DataFrame, binary_textures: pd.DataFrame) -> Callable[..., TrainJob]:
    """``make_job(binary=False, job fields..., hyperparameters...)``: 8 training and 4 validation pictures."""
    from semseg_automl.core.config import RunConfig, hyperparameter_names
    from semseg_automl.data.frame import check_table
    from semseg_automl.data.labels import infer_label_map, scan_masks
    from semseg_automl.models.checkpoints import resolve_weights

    def make(*, binary: bool = False, **changes: Any) -> TrainJob:
        samples = check_table(binary_textures if binary else textures, need_label=True)
        hyper = {k: changes.pop(k) for k in list(changes) if k in hyperparameter_names()}
        small = {"image_size": 64, "num_experts": 2, "rank": 4, "max_epochs": 2, "backbone": "sam_tiny"}
        values: dict[str, Any] = {
            "config": RunConfig().replace(**{**small, **hyper}),
            "label_map": infer_label_map(scan_masks(samples.masks or ())),
            "train": samples.subset(range(8)),
            "val": samples.subset(range(8, 12)),
            "weights": resolve_weights("sam_tiny"),
            "eval_metric": "iou" if binary else "mean_iou",
        }
        return TrainJob(**{**values, **changes})

    return make
