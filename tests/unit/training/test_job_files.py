"""A job and its result survive the way through files, exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.data.frame import check_table
from semseg_automl.data.images import IntensityScaling
from semseg_automl.data.labels import LabelMap
from semseg_automl.models.checkpoints import ResolvedWeights
from semseg_automl.training.job import ModelState, TrainJob, TrainResult
from semseg_automl.training.job_files import Order, read_order, read_result, write_order, write_result

STATE = ModelState(
    adapter={"block.0.down": torch.randn(3, 2)},
    head={"bias": torch.arange(4, dtype=torch.int64), "tied": torch.ones(4, 4)[:, 1]},
)


def _same(one: ModelState, other: ModelState) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        for a, b in ((one.adapter, other.adapter), (one.head, other.head))
    )


@pytest.fixture
def job(textures: pd.DataFrame) -> TrainJob:
    samples = check_table(textures, need_label=True)
    return TrainJob(
        config=RunConfig().replace(scales=(1, 2), image_size=(64, 96), num_experts=2),
        label_map=LabelMap(
            problem_type="multiclass", names=("a", "b"), values=((0, 0, 0), (1, 2, 3)), ignore=7
        ),
        train=samples.subset(range(8)),
        val=samples.subset(range(8, 12)),
        weights=ResolvedWeights(name="sam_tiny", source="fixed seed", path=None, sha256=""),
        eval_metric="mean_iou",
        scaling=IntensityScaling(1.0, 2.0),
        device_ids=(1, 3),
        max_steps=20,
        init=STATE,
        class_weights=(1.0, np.float32(0.5)),
    )


def test_job(job: TrainJob, tmp_path: Path) -> None:
    write_order(Order(job=job, deadline=math.inf, log_level=20), tmp_path)
    again = read_order(tmp_path)
    assert (again.deadline, again.log_level) == (math.inf, 20)
    for part in ("train", "val"):
        before, after = getattr(job, part), getattr(again.job, part)
        assert (before.images, before.masks, before.sizes) == (after.images, after.masks, after.sizes)
    assert again.job.init is not None and _same(again.job.init, STATE)
    changes = {"train": job.train, "val": job.val, "init": job.init}
    assert replace(again.job, **changes) == job


def test_a_job_without_extras(job: TrainJob, tmp_path: Path) -> None:
    plain = replace(job, scaling=None, weights=None, init=None, class_weights=None)
    write_order(Order(job=plain), tmp_path)
    again = read_order(tmp_path).job
    assert replace(again, train=plain.train, val=plain.val) == plain


def test_weights_in_memory_travel(job: TrainJob, tmp_path: Path) -> None:
    held = ResolvedWeights(
        name="mobile_sam", source="artifact", path=None, sha256="ab", tensors={"x": torch.randn(2)}
    )
    write_order(Order(job=replace(job, weights=held)), tmp_path)
    weights = read_order(tmp_path).job.weights
    assert weights == held  # compares all but the tensors
    assert weights.tensors is not None and held.tensors is not None
    assert torch.equal(weights.tensors["x"], held.tensors["x"])


def test_a_function_is_refused(job: TrainJob, tmp_path: Path) -> None:
    own = replace(job, own_augment=lambda image, mask, _rng: (image, mask))
    with pytest.raises(ConfigError, match="function has no JSON form"):
        write_order(Order(job=own), tmp_path)


def test_result(tmp_path: Path) -> None:
    result = TrainResult(
        state="time",
        score=math.nan,
        threshold=0.25,
        metrics={"iou": np.float64(0.5), "ber": math.nan},
        model=STATE,
        steps=3,
        epochs=1.5,
        seconds=2.0,
        train_seconds=1.0,
        val_seconds=0.5,
        seconds_per_step=0.25,
        predict_seconds=0.1,
        peak_memory_mb=math.nan,
        n_trainable=10,
        history=((1, 0.5, 0.25), (3, 1.0, 0.5)),
        never_predicted=(1,),
    )
    write_result(result, tmp_path)
    again = read_result(tmp_path)
    assert _same(again.model, STATE)
    assert repr(replace(again, model=STATE)) == repr(replace(result, metrics={"iou": 0.5, "ber": math.nan}))
