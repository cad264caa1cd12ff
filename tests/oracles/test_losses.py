"""Each loss against another library or its formula written out pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from semseg_automl.losses import functional
from semseg_automl.losses.cl_dice import ITERATIONS, ce_cl_dice, soft_cl_dice, soft_skeleton
from semseg_automl.losses.functional import IGNORE
from semseg_automl.losses.lovasz import jaccard_steps, lovasz

smp = pytest.importorskip("segmentation_models_pytorch", reason="in the extra [dev]")


def batch(classes: int, *, ignore: bool = False, size: tuple[int, int] = (40, 33)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, classes, *size, generator=generator)
    coarse = torch.rand(2, max(classes, 2), 5, 5, generator=generator)
    target = F.interpolate(coarse, size, mode="bilinear").argmax(1)  # blobs, not noise
    if ignore:
        target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
        target[:, :, 20:27] = IGNORE
    return logits, target


def published_structure(pred: Tensor, mask: Tensor) -> Tensor:
    """The published code of F3Net and PraNet on (B, 1, H, W), the BCE weighted as the paper prints it."""
    weit = 1 + 5 * torch.abs(F.avg_pool2d(mask, kernel_size=31, stride=1, padding=15) - mask)
    wbce = F.binary_cross_entropy_with_logits(pred, mask, reduction="none")
    wbce = (weit * wbce).sum(dim=(2, 3)) / weit.sum(dim=(2, 3))
    pred = torch.sigmoid(pred)
    inter = ((pred * mask) * weit).sum(dim=(2, 3))
    union = ((pred + mask) * weit).sum(dim=(2, 3))
    wiou = 1 - (inter + 1) / (union - inter + 1)
    return (wbce + wiou).mean()


def written_out_structure(logits: Tensor, target: Tensor, kernel: int) -> float:
    """One picture of (1, H, W) logits, pixel by pixel in Python, ignored pixels never looked at."""
    height, width = target.shape
    half = kernel // 2
    top = bottom = inter = union = 0.0
    for y in range(height):
        for x in range(width):
            if target[y, x] == IGNORE:
                continue
            m = float(target[y, x] == 1)
            ones, count = 0.0, 0
            for j in range(y - half, y + half + 1):
                for i in range(x - half, x + half + 1):
                    inside = 0 <= j < height and 0 <= i < width
                    if inside and target[j, i] == IGNORE:
                        continue
                    count += 1
                    ones += float(inside and target[j, i] == 1)
            w = 1 + 5 * abs(ones / count - m)
            p = 1 / (1 + math.exp(-float(logits[0, y, x])))
            top += w * -math.log(p if m else 1 - p)
            bottom += w
            inter += w * p * m
            union += w * (p + m)
    return top / bottom + 1 - (inter + 1) / (union - inter + 1)


def test_structure_is_the_published_formula() -> None:
    logits, target = batch(1)
    expected = published_structure(logits, target[:, None].float())
    assert functional.structure(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_structure_gradient_is_the_published_formulas() -> None:
    logits, target = batch(1)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    functional.structure(ours, target).backward()
    published_structure(theirs, target[:, None].float()).backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-9)


def test_structure_of_many_classes_is_the_mean_of_one_vs_rest() -> None:
    logits, target = batch(4)
    masks = [(target == k)[:, None].float() for k in range(4)]
    each = torch.stack([published_structure(logits[:, k : k + 1], masks[k]) for k in range(4)])
    assert functional.structure(logits, target).item() == pytest.approx(each.mean().item(), rel=1e-5)
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0])
    expected = (each * weights).sum() / weights.sum()
    actual = functional.structure(logits, target, class_weights=weights)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_structure_leaves_ignored_pixels_out_of_everything() -> None:
    logits, target = batch(1, ignore=True, size=(14, 29))
    expected = [written_out_structure(logits[b], target[b], 7) for b in range(2)]
    actual = functional.structure(logits, target, kernel=7)
    assert actual.item() == pytest.approx(sum(expected) / 2, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(weighted: bool) -> None:
    logits, target = batch(4, ignore=True)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0]) if weighted else None
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE, weight=weights)
    actual = functional.cross_entropy(logits, target, class_weights=weights)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_binary_cross_entropy_is_torchs() -> None:
    logits, target = batch(1, ignore=True)
    valid = target != IGNORE
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][valid], target[valid].float())
    assert functional.cross_entropy(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_weighted_binary_cross_entropy_is_that_of_two_classes() -> None:
    logits, target = batch(1, ignore=True)
    weights = torch.tensor([0.3, 1.7])
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)  # sigmoid(x) = softmax((0, x))
    expected = F.cross_entropy(two, target, ignore_index=IGNORE, weight=weights)
    actual = functional.cross_entropy(logits, target, class_weights=weights)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
def test_dice_is_segmentation_models_pytorchs(classes: int) -> None:
    logits, target = batch(classes, ignore=True)
    if classes == 1:
        theirs = smp.losses.DiceLoss("binary", ignore_index=IGNORE)
    else:  # over the classes that are present
        target[target == 3] = 0
        theirs = smp.losses.DiceLoss("multiclass", classes=[0, 1, 2], ignore_index=IGNORE)
    probabilities = logits.sigmoid() if classes == 1 else logits.softmax(1)
    expected = theirs(logits, target[:, None] if classes == 1 else target)
    actual = functional.soft_dice(probabilities, target, smooth=0.0)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_smoothed_dice_is_its_formula() -> None:
    logits, target = batch(3, ignore=True)
    p, true = logits.softmax(1).permute(0, 2, 3, 1)[target != IGNORE], target[target != IGNORE]
    scores = []
    for k in range(3):
        m = (true == k).float()
        scores.append((2 * (p[:, k] * m).sum() + 1) / (p[:, k].sum() + m.sum() + 1))
    expected = 1 - torch.stack(scores).mean()
    assert functional.soft_dice(logits.softmax(1), target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["ce_dice", "bce_dice"])
def test_sums_are_the_sum_of_their_parts(name: str) -> None:
    logits, target = batch(4, ignore=True)
    valid = target != IGNORE
    if name == "ce_dice":
        probabilities = logits.softmax(1)
        first = F.cross_entropy(logits, target, ignore_index=IGNORE)
    else:
        probabilities = logits.sigmoid()
        flat = logits.permute(0, 2, 3, 1)[valid]  # (N, K)
        first = F.binary_cross_entropy_with_logits(flat, F.one_hot(target[valid], 4).float())
    expected = first + functional.soft_dice(probabilities, target)
    assert getattr(functional, name)(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_structure_compat_is_the_released_codes() -> None:
    """The published code with the released argument: torch reads ``reduce="none"`` as the mean."""
    logits, target = batch(1)
    mask = target[:, None].float()
    weit = 1 + 5 * torch.abs(F.avg_pool2d(mask, kernel_size=31, stride=1, padding=15) - mask)
    with pytest.warns(UserWarning, match="deprecated"):
        wbce = F.binary_cross_entropy_with_logits(logits, mask, reduce="none")  # type: ignore[arg-type]
    wbce = (weit * wbce).sum(dim=(2, 3)) / weit.sum(dim=(2, 3))
    pred = torch.sigmoid(logits)
    inter = ((pred * mask) * weit).sum(dim=(2, 3))
    union = ((pred + mask) * weit).sum(dim=(2, 3))
    expected = (wbce + 1 - (inter + 1) / (union - inter + 1)).mean()
    assert functional.structure_compat(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert functional.structure(logits, target).item() != pytest.approx(expected.item(), rel=1e-4)


def test_balanced_bce_is_autogluons_without_its_factor() -> None:
    """Its code: w_neg * BCEWithLogits(pos_weight = N / P) with w_neg = P / (P + N)."""
    logits, target = batch(1)
    mask = (target[:, None] == 1).float()
    pos, neg = mask.sum(), (1 - mask).sum()
    theirs = pos / (pos + neg) * F.binary_cross_entropy_with_logits(logits, mask, pos_weight=neg / pos)
    expected = theirs / (2 * pos * neg / (pos + neg) ** 2)
    assert functional.balanced_bce(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_balanced_cross_entropy_is_the_mean_of_class_means(weighted: bool) -> None:
    logits, target = batch(5, ignore=True)
    target[target == 3] = 0  # an absent class
    nll = F.cross_entropy(logits, target.clamp_min(0), reduction="none")
    weights = torch.tensor([1.0, 2.0, 0.5, 9.0, 3.0]) if weighted else torch.ones(5)
    means = {k: nll[target == k].mean() for k in (0, 1, 2, 4)}
    expected = sum(weights[k] * m for k, m in means.items()) / sum(weights[k] for k in means)
    actual = functional.balanced_bce(logits, target, class_weights=weights if weighted else None)
    assert actual.item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
def test_lovasz_is_segmentation_models_pytorchs(classes: int) -> None:
    logits, target = batch(classes, ignore=True)
    if classes == 4:
        target[target == 3] = 0  # an absent class
    theirs = smp.losses.LovaszLoss("binary" if classes == 1 else "multiclass", ignore_index=IGNORE)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    mine, expected = lovasz(first, target), theirs(second, target)
    assert mine.item() == pytest.approx(expected.item(), rel=1e-5)
    mine.backward()
    expected.backward()
    assert first.grad is not None and second.grad is not None
    # their steps of 1 - IoU, which weigh the gradient, are differences in float32: off by some 1e-7 each
    assert torch.allclose(first.grad, second.grad, rtol=1e-4, atol=5e-7)


def test_steps_of_lovasz_are_those_of_float64() -> None:
    """A million pixels: each step is about as large as float32's rounding of 1 - IoU."""
    masks = (torch.rand(2, 1_000_000, generator=torch.Generator().manual_seed(0)) < 0.9).float()
    kept, total = masks.double(), masks.double().sum(1, keepdim=True)
    expected = 1.0 - (total - kept.cumsum(1)) / (total + (1.0 - kept).cumsum(1))
    expected = torch.diff(expected, dim=1, prepend=torch.zeros(2, 1, dtype=torch.float64))
    steps = jaccard_steps(masks)
    assert steps.dtype == torch.float32 and torch.allclose(steps.double(), expected, rtol=1e-6, atol=0)


def test_lovasz_of_hard_masks_is_one_minus_iou() -> None:
    """At the corners of the cube the extension equals the set function (proposition 1 of the paper)."""
    truth = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    guess = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.5
    logits = torch.stack([~guess, guess], 1).float() * 100
    ious = [
        (truth == k).logical_and(guess == k).sum() / (truth == k).logical_or(guess == k).sum() for k in (0, 1)
    ]
    expected = 1 - torch.stack(ious).mean()
    assert lovasz(logits, truth.long()).item() == pytest.approx(expected.item(), abs=1e-5)


def test_soft_skeleton_is_monais() -> None:
    theirs = pytest.importorskip("monai.losses.cldice", reason="in the extra [dev]")
    x = F.interpolate(torch.rand(2, 3, 7, 6, generator=torch.Generator().manual_seed(0)), (40, 33))
    assert torch.allclose(soft_skeleton(x, 4), theirs.soft_skel(x, 4), atol=1e-6)


def test_soft_cl_dice_is_its_formula() -> None:
    """Equations 1 to 3 with MONAI's skeleton, class by class; ignored pixels outside of both."""
    theirs = pytest.importorskip("monai.losses.cldice", reason="in the extra [dev]")
    logits, target = batch(3, ignore=True)
    valid = (target != IGNORE)[:, None].float()
    p = logits.softmax(1) * valid
    masks = torch.stack([(target == k).float() for k in range(3)], 1)
    thin, true_thin = theirs.soft_skel(p, ITERATIONS), theirs.soft_skel(masks, ITERATIONS)
    losses = []
    for k in range(3):
        precision = ((thin[:, k] * masks[:, k]).sum() + 1) / (thin[:, k].sum() + 1)
        sensitivity = ((true_thin[:, k] * p[:, k]).sum() + 1) / (true_thin[:, k].sum() + 1)
        losses.append(1 - 2 / (1 / precision + 1 / sensitivity))
    thinness = torch.stack(losses).mean()
    assert soft_cl_dice(logits.softmax(1), target).item() == pytest.approx(thinness.item(), rel=1e-4)
    dice = functional.soft_dice(logits.softmax(1), target)
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE) + (dice + thinness) / 2
    assert ce_cl_dice(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cl_dice_sees_a_gap_that_dice_overlooks() -> None:
    """A thick line with a one-pixel gap, and one that is thinner but whole."""
    target = torch.zeros(1, 31, 41, dtype=torch.long)
    target[:, 13:18] = 1
    gap, thin = (target[:, None].float().clone() for _ in range(2))
    gap[..., 18:23] = 0
    thin[..., 13, :] = thin[..., 17, :] = 0
    assert functional.soft_dice(gap, target) < functional.soft_dice(thin, target)
    assert soft_cl_dice(gap, target) > soft_cl_dice(thin, target)


def test_binary_focal_is_torchvisions() -> None:
    logits, target = batch(1, ignore=True)
    valid = target != IGNORE
    focal = sigmoid_focal_loss(
        logits[:, 0][valid], target[valid].float(), alpha=-1, gamma=2.0, reduction="mean"
    )
    assert functional.focal(logits, target).item() == pytest.approx(focal.item(), rel=1e-5)
    expected = focal + functional.soft_dice(logits.sigmoid(), target)
    assert functional.focal_dice(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_softmax_focal_is_its_formula() -> None:
    logits, target = batch(4, ignore=True)
    flat, true = logits.double().permute(0, 2, 3, 1)[target != IGNORE], target[target != IGNORE]
    p = flat.softmax(1)[torch.arange(len(true)), true]
    expected = (-((1 - p) ** 2) * p.log()).mean() + functional.soft_dice(logits.softmax(1), target)
    assert functional.focal_dice(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)
    plain = functional.focal_dice(logits, target, gamma=0.0)  # gamma 0 is cross-entropy
    assert plain.item() == pytest.approx(functional.ce_dice(logits, target).item(), rel=1e-5)
