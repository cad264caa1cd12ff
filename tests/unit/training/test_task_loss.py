"""Which loss a training step takes: by name, matched queries, classes weighted by a scheme."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from semseg_automl.data.fingerprint import class_pixels
from semseg_automl.losses.functional import against_the_rest, ce_dice
from semseg_automl.losses.matching import matching_loss
from semseg_automl.losses.registry import LOSSES
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


@pytest.mark.parametrize("loss", list(LOSSES))
def test_perfect_queries_cost_nothing_under_any_loss(
    loss: str, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query for each class, sure of its class and its mask; and none of them is told so by another loss."""
    images, masks = batch()
    masks = masks.clamp(min=0)
    made = losses(make_job(head="mask_classification", num_queries=3, adapter="lora", loss=loss))
    head = made.segmenter.decoder
    small = F.interpolate(masks[:, None].float(), scale_factor=0.25)[:, 0]
    truth = 40.0 * torch.stack([(small == k).float() - 0.5 for k in range(3)], 1)  # (B, Q, H / 4, W / 4)
    classes = 40.0 * torch.eye(4)[:3].expand(2, 3, 4)
    monkeypatch.setattr(head, "queries", lambda _features: (truth, classes))
    perfect = float(made.task_loss(images, masks))
    monkeypatch.setattr(head, "queries", lambda _features: (truth.roll(1, 1), classes))
    wrong = float(made.task_loss(images, masks))
    # losses see masks of a quarter of the size, enlarged: borders are soft
    assert perfect < 0.35 < 1.5 * perfect + 0.35 < wrong


def test_odds_have_the_softmax_as_their_sigmoid() -> None:
    logits = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    odds = against_the_rest(logits)
    torch.testing.assert_close(odds.sigmoid(), logits.softmax(1))
    extreme = torch.tensor([1e4, -1e4, 0.0])[None, :, None, None].requires_grad_()
    against_the_rest(extreme).sum().backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()


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
