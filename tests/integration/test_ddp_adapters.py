"""Every adapter trains in two processes without a search for unused parameters."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.training.job import TrainJob
from semseg_automl.training.launch import train_on_devices

pytestmark = pytest.mark.slow
STEPS = 3
VARIANTS = {name: {"adapter": name} for name in ADAPTERS} | {
    "conv_lora learned": {"adapter": "conv_lora", "routing": "learned"},
    "conv_lora compat": {"adapter": "conv_lora", "routing": "compat"},
    "conv_lora separate": {"adapter": "conv_lora", "qkv": "separate", "nonlinearity": "gelu"},
    "vpt shallow": {"adapter": "vpt", "prompt_depth": "shallow"},
    "mask_classification": {"adapter": "lora", "head": "mask_classification", "num_queries": 3},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_without_unused_parameters(variant: str, binary_textures: pd.DataFrame) -> None:
    """DDP raises at the second step if a trained tensor had no gradient at the first."""
    samples = check_table(binary_textures, need_label=True)
    config = RunConfig().replace(
        backbone="sam_tiny", num_experts=4, rank=2, image_size=64, batch_size=4, augment="none"
    )
    job = TrainJob(
        config=config.replace(**VARIANTS[variant]),
        label_map=infer_label_map(scan_masks(samples.masks or ())),
        train=samples.subset(range(8)),
        val=samples.subset(range(8, 10)),
        weights=resolve_weights("sam_tiny"),
        eval_metric="iou",
        max_steps=STEPS,
        device_ids=(0, 1),
    )
    result = train_on_devices(job)
    assert result.steps == STEPS and result.state == "finished"
    tensors = [*result.model.adapter.values(), *result.model.head.values()]
    assert all(torch.as_tensor(t).isfinite().all() for t in tensors)
