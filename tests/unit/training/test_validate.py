"""Classes that are in the validation masks and in no prediction are found, and told at the end of a fit."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from semseg_automl.data.dataset import SegmentationDataset
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.estimator._keeper import Keeper
from semseg_automl.training.validate import validate


class Always(torch.nn.Module):
    """A network that answers with one of the classes, everywhere."""

    def __init__(self, chosen: int, n_classes: int) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.eye(n_classes)[chosen] * 9.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        b, _, h, w = images.shape
        return self.logits[None, :, None, None].expand(b, -1, h // 4, w // 4)


@pytest.mark.parametrize("chosen", [0, 2])
def test_a_class_without_a_predicted_pixel_is_found(chosen: int, textures: pd.DataFrame) -> None:
    samples = check_table(textures, need_label=True)
    label_map = infer_label_map(scan_masks(samples.masks or ()))
    data = SegmentationDataset(samples, label_map, image_size=64)
    network: Any = Always(chosen, label_map.n_classes)
    found = validate(network, data, eval_metric="mean_iou")
    assert found.never_predicted == tuple(k for k in range(3) if k != chosen)
    assert found.complete and found.pictures == len(samples)


@pytest.mark.parametrize("missed", [(), (1,), (0, 2)])
def test_it_is_told_by_name(missed: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    names = ("road", "car", "tree")
    keeper: Any = SimpleNamespace(tables=SimpleNamespace(label_map=SimpleNamespace(names=names)))
    outcome: Any = SimpleNamespace(best=SimpleNamespace(never_predicted=missed, steps=9))
    with caplog.at_level(logging.WARNING, "semseg_automl"):
        Keeper._warn(keeper, outcome, 1.0, 2.0)
    told = caplog.text
    assert ("Never predicted on the validation pictures" in told) == bool(missed)
    assert [name for name in names if name in told] == [names[k] for k in missed]
