"""Classes that are in the validation masks and in no prediction are found, and told at the end of a fit."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from semseg_automl.data.dataset import SegmentationDataset
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.estimator._keeper import Keeper
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.registry import resolve_metric
from semseg_automl.training.validate import validate


class Always(torch.nn.Module):
    """A network that answers with one of the classes, everywhere."""

    def __init__(self, chosen: int, n_classes: int) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.eye(n_classes)[chosen] * 9.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        b, _, h, w = images.shape
        return self.logits[None, :, None, None].expand(b, -1, h // 4, w // 4)


class Unsure(torch.nn.Module):
    """Foreground probability 0.42 where the picture is bright, 0.05 elsewhere: never above 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.low = torch.nn.Parameter(torch.logit(torch.tensor(0.05)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(1, keepdim=True) > 0
        return torch.where(bright, torch.logit(torch.tensor(0.42)), self.low)


@pytest.mark.parametrize("metric", ["iou", "dice", "ber", "mean_image_iou", "boundary_f", "mae", "s_measure"])
def test_every_number_is_of_the_threshold_that_predicts(metric: str) -> None:
    """Else a good model's Dice reads 0.0 beside its IoU, and its foreground is "never predicted"."""
    pictures, masks = [], []
    for i in range(3):
        mask = np.zeros((64, 64), np.uint8)
        mask[8 : 40 + 4 * i, 8:40] = 1
        masks.append(mask)
        shown = mask.copy()
        shown[0, :2] = 1  # what is bright and no foreground
        pictures.append(np.repeat(255 * shown[..., None], 3, axis=2))
    samples = check_table(pictures, masks, need_label=True)
    data = SegmentationDataset(samples, infer_label_map(scan_masks(masks)), image_size=64)
    network: Any = Unsure()
    found = validate(network, data, eval_metric=metric)
    evaluator = Evaluator(2, True, found.threshold, metrics=metric)
    for i in range(3):
        image, target, _ = data.full_size(i)
        evaluator.add(network(image[None])[0, 0].sigmoid().detach().numpy(), target)
    spec = resolve_metric(metric, "binary")
    expected = {**evaluator.result(), **evaluator.result(metric)}
    assert found.score == pytest.approx(spec.score(expected[spec.name]), abs=1e-6)
    assert found.metrics == pytest.approx(expected, abs=1e-6)
    if metric not in ("mean_image_iou", "boundary_f"):  # those are measured at 0.5
        assert found.threshold < 0.42 and found.never_predicted == ()


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
