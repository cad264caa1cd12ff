"""A second Ctrl-C ends a training as KeyboardInterrupt, not as Lightning's SystemExit."""

from __future__ import annotations

import signal
from collections.abc import Mapping

import pandas as pd
import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.training.fit import train
from semseg_automl.training.job import Hooks, TrainJob


def _press(_event: Mapping[str, float]) -> None:
    raise KeyboardInterrupt


def test_keyboard_interrupt(binary_textures: pd.DataFrame) -> None:
    samples = check_table(binary_textures, need_label=True)
    job = TrainJob(
        config=RunConfig().replace(backbone="sam_tiny", rank=2, num_experts=2, image_size=64, batch_size=2),
        label_map=infer_label_map(scan_masks(samples.masks or ())),
        train=samples.subset(range(9)),
        val=samples.subset(range(9, 12)),
        weights=resolve_weights("sam_tiny"),
        eval_metric="iou",
        max_steps=4,
    )
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(job, Hooks(progress=_press))
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
