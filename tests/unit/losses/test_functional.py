"""What every loss promises, whatever its formula (the formulas are in tests/oracles/test_losses.py)."""

from __future__ import annotations

import pytest
import torch

from semseg_automl.core.errors import ConfigError
from semseg_automl.losses import functional
from semseg_automl.losses.functional import IGNORE
from semseg_automl.losses.registry import LOSSES, resolve_loss

BOUNDED = {"lovasz": 0.5}
"""Losses that can't reach 1 (Lovász softmax: of evenly wrong classes), and what they reach at least."""


def batch(classes: int, *, ignore: bool = False, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 17, 23, generator=generator)
    target = torch.randint(0, max(classes, 2), (3, 17, 23), generator=generator)
    if ignore:
        target[:, 10:] = IGNORE
        target[1] = IGNORE
    return logits, target


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_is_a_finite_scalar_with_gradient_everywhere(self, name: str, classes: int) -> None:
        logits, target = batch(classes)
        logits.requires_grad_()
        loss = LOSSES[name](logits, target)
        loss.backward()
        assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
        assert logits.grad is not None
        if name == "lovasz" and classes == 1:  # a hinge: none beyond the margin
            logits.grad = logits.grad + (logits * (2.0 * target[:, None] - 1.0) >= 1).float()
        assert bool((logits.grad != 0).all())

    def test_ignored_pixels_change_nothing(self, name: str, classes: int) -> None:
        logits, target = batch(classes, ignore=True)
        other = torch.where((target == IGNORE)[:, None], torch.full_like(logits, 7.0), logits)
        assert torch.equal(LOSSES[name](logits, target), LOSSES[name](other, target))
        logits.requires_grad_()
        LOSSES[name](logits, target).backward()
        assert logits.grad is not None
        assert not logits.grad.permute(0, 2, 3, 1)[target == IGNORE].any()

    def test_nothing_but_ignored_is_zero_with_a_graph(self, name: str, classes: int) -> None:
        logits, target = batch(classes)
        logits.requires_grad_()
        loss = LOSSES[name](logits, torch.full_like(target, IGNORE))
        loss.backward()
        assert loss.item() == 0.0
        assert logits.grad is not None and not logits.grad.any()

    def test_right_is_better_than_wrong(self, name: str, classes: int) -> None:
        _, target = batch(classes)
        if classes == 1:
            right = torch.where(target == 1, 9.0, -9.0)[:, None]
        else:
            right = 18.0 * torch.nn.functional.one_hot(target, classes).permute(0, 3, 1, 2) - 9.0
        assert LOSSES[name](right, target) < 0.05
        assert LOSSES[name](-right, target) > BOUNDED.get(name, 1.0)

    def test_extreme_logits_stay_finite(self, name: str, classes: int) -> None:
        logits, target = batch(classes)
        logits = (logits * 1e4).requires_grad_()
        loss = LOSSES[name](logits, target)
        loss.backward()
        assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()

    def test_half_precision_logits_are_computed_in_float32(self, name: str, classes: int) -> None:
        logits, target = batch(classes)
        low = logits.bfloat16()
        assert torch.equal(LOSSES[name](low, target), LOSSES[name](low.float(), target))

    def test_equal_class_weights_change_nothing(self, name: str, classes: int) -> None:
        logits, target = batch(classes, ignore=True)
        weights = torch.full((max(classes, 2),), 3.0)
        plain, weighted = (LOSSES[name](logits, target, class_weights=w) for w in (None, weights))
        assert weighted.item() == pytest.approx(plain.item(), rel=1e-5)

    def test_wrong_shapes_are_refused(self, name: str, classes: int) -> None:
        logits, target = batch(classes)
        with pytest.raises(ConfigError, match="same size"):
            LOSSES[name](logits, target[:, 1:])
        with pytest.raises(ConfigError, match="one value per class"):
            LOSSES[name](logits, target, class_weights=torch.ones(9))


@pytest.mark.parametrize("kernel", [1, 3, 31, 61])
def test_box_mean_is_average_pooling(kernel: int) -> None:
    masks = (torch.rand(2, 3, 40, 29, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    expected = torch.nn.functional.avg_pool2d(masks.double(), kernel, 1, kernel // 2)
    assert torch.allclose(functional.box_mean(masks, kernel).double(), expected, atol=1e-7, rtol=0)


def test_box_mean_refuses_even_kernels() -> None:
    with pytest.raises(ConfigError, match="odd"):
        functional.box_mean(torch.zeros(1, 1, 4, 4), 4)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_class_of_weight_zero_is_as_if_ignored(classes: int) -> None:
    logits, target = batch(classes)
    weights = torch.ones(max(classes, 2))
    weights[0] = 0.0
    expected = functional.cross_entropy(logits, torch.where(target == 0, IGNORE, target))
    assert torch.allclose(functional.cross_entropy(logits, target, class_weights=weights), expected)


def test_dice_counts_only_present_classes() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, :4] = 2
    probabilities = torch.nn.functional.one_hot(target, 5).permute(0, 3, 1, 2).float()
    assert functional.soft_dice(probabilities, target).item() == pytest.approx(0.0, abs=1e-6)


def test_dice_without_foreground_is_zero() -> None:
    probabilities = torch.full((1, 1, 4, 4), 0.3)
    assert functional.soft_dice(probabilities, torch.zeros(1, 4, 4, dtype=torch.long)).item() == 0.0


def test_pictures_without_a_valid_pixel_leave_the_structure_loss() -> None:
    logits, target = batch(1, ignore=True)  # picture 1 is all ignored
    expected = functional.structure(logits[[0, 2]], target[[0, 2]])
    assert torch.allclose(functional.structure(logits, target), expected)


def test_every_room_ignores_the_same_index() -> None:
    from semseg_automl.data import labels
    from semseg_automl.metrics import confusion

    assert functional.IGNORE == labels.IGNORE == confusion.IGNORE


@pytest.mark.parametrize(("problem_type", "expected"), [("binary", "structure"), ("multiclass", "ce_dice")])
def test_default_losses(problem_type: str, expected: str) -> None:
    assert resolve_loss("auto", problem_type) is LOSSES[expected]
    assert resolve_loss("focal_dice", problem_type) is LOSSES["focal_dice"]


def test_unknown_names_are_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'structure'"):
        resolve_loss("strcture", "binary")
    with pytest.raises(ConfigError, match="Did you mean 'multiclass'"):
        resolve_loss("auto", "multi_class")
