"""Which loss a training step takes: by name, matched queries, classes weighted by a scheme."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from semseg_automl.data.fingerprint import class_pixels
from semseg_automl.losses.functional import ce_dice
from semseg_automl.losses.matching import matching_loss
from semseg_automl.losses.weights import class_weights
from semseg_automl.models.decoder import MaskClassificationHead
from semseg_automl.training.fit import make_segmenter, weights_of
from semseg_automl.training.job import TrainJob
from semseg_automl.training.losses import StepLosses
from semseg_automl.training.module import SegmentationModule

Make = Callable[..., TrainJob]


def losses(job: TrainJob) -> StepLosses:
    segmenter = make_segmenter(job)
    made = SegmentationModule(
        segmenter, job.config, job.label_map.problem_type, lambda _step: 0.0, weights_of(job)
    )
    return made.losses


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    masks = torch.randint(-1, 3, (2, 4, 4), generator=generator)
    return images, masks.repeat_interleave(16, 1).repeat_interleave(16, 2)


def test_queries_are_matched_unless_a_loss_is_named(make_job: Make) -> None:
    images, masks = batch()
    job = make_job(head="mask_classification", num_queries=4, adapter="lora")
    made = losses(job)
    head = made.segmenter.decoder
    assert isinstance(head, MaskClassificationHead)
    expected = matching_loss(*head.queries(made.segmenter.encoder(images)), masks)
    assert torch.equal(made.task_loss(images, masks), expected)
    named = losses(make_job(head="mask_classification", num_queries=4, adapter="lora", loss="ce_dice"))
    logits = F.interpolate(named.segmenter(images), (64, 64), mode="bilinear")
    assert torch.equal(named.task_loss(images, masks), ce_dice(logits, masks))


@pytest.mark.parametrize("head", ["semantic", "mask_classification"])
def test_schemes_weight_the_classes(head: str, make_job: Make) -> None:
    images, masks = batch()
    plain = losses(make_job(head=head, adapter="lora"))
    job = make_job(head=head, adapter="lora", class_weights="balanced")
    weighted = losses(job)
    expected = class_weights(class_pixels(job.train.masks or (), job.label_map), "balanced")
    assert expected is not None and weights_of(job) == expected
    assert weighted.class_weights is not None and plain.class_weights is None
    assert weighted.class_weights.tolist() == pytest.approx(list(expected))
    assert weighted.task_loss(images, masks) != plain.task_loss(images, masks)
