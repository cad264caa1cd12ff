"""The matching loss against every assignment written out, and what it promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.errors import ConfigError
from semseg_automl.losses.functional import IGNORE
from semseg_automl.losses.matching import match, matching_loss


def batch(queries: int, kinds: int, *, ignore: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (2, Q, 6, 5), classes (2, Q, K + 1), target (2, 24, 20) of blobs."""
    generator = torch.Generator().manual_seed(queries * 10 + kinds)
    masks = 2 * torch.randn(2, queries, 6, 5, generator=generator)
    classes = 2 * torch.randn(2, queries, kinds + 1, generator=generator)
    coarse = torch.rand(2, kinds, 4, 4, generator=generator)
    target = F.interpolate(coarse, (24, 20), mode="bilinear").argmax(1)
    if ignore:
        target[:, :, 8:12] = IGNORE  # whole cells of the masks
    return masks, classes, target


def pair_cost(mask: Tensor, p: Tensor, label: int, truth: Tensor) -> float:
    """Cost of one query (its (h, w) logits, its class probabilities) for one class of a (H, W) target."""
    h, w = mask.shape
    cells = truth.view(h, truth.shape[0] // h, w, truth.shape[1] // w).permute(0, 2, 1, 3).flatten(2)
    share = (cells != IGNORE).float().mean(-1)
    inside = (cells == label).float().mean(-1)
    on, off = -F.logsigmoid(mask), -F.logsigmoid(-mask)
    bce = (on * inside + off * (share - inside)).sum() / share.sum()
    s = mask.sigmoid()
    dice = 1 - (2 * (s * inside).sum() + 1) / ((s * share).sum() + inside.sum() + 1)
    return float(-2 * p[label] + 5 * bce + 5 * dice)


def written_out(masks: Tensor, classes: Tensor, target: Tensor, weights: Tensor) -> float:
    """Every assignment tried, every term a loop."""
    kinds = classes.shape[-1] - 1
    terms, term_weights, nlls, nll_weights = [], [], [], []
    for mask, kind, truth in zip(masks, classes, target, strict=True):
        present = [k for k in range(kinds) if (truth == k).any()]
        if not present:
            continue
        p = kind.softmax(-1)
        count = min(len(mask), len(present))
        pairs = (
            tuple(zip(qs, ks, strict=True))
            for ks in itertools.combinations(present, count)
            for qs in itertools.permutations(range(len(mask)), count)
        )
        costs = {(q, k): pair_cost(mask[q], p[q], k, truth) for q in range(len(mask)) for k in present}
        best = dict(min(pairs, key=lambda pair: sum(costs[qk] for qk in pair)))
        for q in range(len(mask)):
            label = best.get(q, kinds)
            nlls.append(-kind[q].log_softmax(-1)[label])
            nll_weights.append(weights[label] if label < kinds else torch.tensor(0.1))
            if label == kinds:
                continue
            large = F.interpolate(mask[None, q : q + 1], truth.shape, mode="bilinear")[0, 0]
            valid = truth != IGNORE
            m, x = (truth == label)[valid].float(), large[valid]
            dice = 1 - (2 * (x.sigmoid() * m).sum() + 1) / (x.sigmoid().sum() + m.sum() + 1)
            terms.append(5 * F.binary_cross_entropy_with_logits(x, m) + 5 * dice)
            term_weights.append(weights[label])
    first = sum(a * b for a, b in zip(nlls, nll_weights, strict=True)) / sum(nll_weights)
    second = sum(a * b for a, b in zip(terms, term_weights, strict=True)) / sum(term_weights)
    return float(2 * first + second)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("queries", "kinds"), [(5, 3), (3, 3), (2, 4), (1, 2), (6, 2)])
def test_loss_is_that_of_the_best_of_all_assignments(queries: int, kinds: int, weighted: bool) -> None:
    masks, classes, target = batch(queries, kinds)
    weights = torch.linspace(0.5, 2.0, kinds) if weighted else torch.ones(kinds)
    expected = written_out(masks, classes, target, weights)
    actual = matching_loss(masks, classes, target, class_weights=weights if weighted else None)
    assert actual.item() == pytest.approx(expected, rel=1e-4)


def test_ignored_pixels_change_nothing() -> None:
    masks, classes, target = batch(5, 3)
    other = masks.clone()
    other[..., 2] = 3.0  # the column of cells that is ignored, away from what bilinear upsampling shares
    pairs = [
        match(m[0], classes[0], target[0][target[0] >= 0].unique(), segments(target[0]), target[0] >= 0)
        for m in (masks, other)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    ignored = matching_loss(masks[:1], classes[:1], torch.full_like(target[:1], IGNORE))
    assert ignored.item() == 0.0
    both = torch.stack([target[0], torch.full_like(target[0], IGNORE)])
    alone = matching_loss(masks[:1], classes[:1], target[:1])
    assert matching_loss(masks, classes, both).item() == pytest.approx(alone.item(), rel=1e-5)


def test_pairs_under_autocast_are_those_of_float32() -> None:
    """Products in bfloat16 had costs wrong by 0.16 and pairs that are not the cheapest."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        truth = torch.randint(0, 6, (8, 8), generator=draw).repeat_interleave(16, 0).repeat_interleave(16, 1)
        mask = torch.randn(32, 32, generator=draw) + 0.02 * torch.randn(
            16, 32, 32, generator=draw
        )  # much alike
        kind = 0.02 * torch.randn(16, 7, generator=draw)
        given = (mask, kind, truth.unique(), segments(truth), truth >= 0)
        with torch.autocast("cpu", torch.bfloat16):
            pairs = match(*given)
        assert all(torch.equal(a, b) for a, b in zip(pairs, match(*given), strict=True))


def segments(truth: Tensor) -> Tensor:
    return torch.stack([(truth == k).float() for k in truth[truth >= 0].unique()])


def test_every_tensor_has_a_gradient_even_where_everything_is_ignored() -> None:
    masks, classes, target = batch(4, 3)
    for truth, zero in ((target, False), (torch.full_like(target, IGNORE), True)):
        inputs = [masks.clone().requires_grad_(), classes.clone().requires_grad_()]
        matching_loss(*inputs, truth).backward()
        for value in inputs:
            assert value.grad is not None and value.grad.isfinite().all()
            assert bool(value.grad.any()) != zero


def test_right_answers_cost_nothing_in_any_order_of_the_queries() -> None:
    _, _, target = batch(5, 3, ignore=False)
    order = [3, 0, 4]  # the query of each class
    masks = torch.full((2, 5, 24, 20), -20.0)
    classes = torch.full((2, 5, 4), -20.0)
    classes[..., 3] = 20.0
    for k, q in enumerate(order):
        masks[:, q] = 40.0 * (target == k) - 20.0
        classes[:, q, k], classes[:, q, 3] = 20.0, -20.0
    assert matching_loss(masks, classes, target).item() < 1e-3
    shuffled = [2, 4, 1, 0, 3]
    again = matching_loss(masks[:, shuffled], classes[:, shuffled], target)
    assert again.item() < 1e-3
    assert matching_loss(-masks, classes, target).item() > 1.0


def test_queries_that_are_not_finite_are_still_matched() -> None:
    masks, classes, target = batch(4, 3)
    masks[0, 1] = torch.nan
    assert matching_loss(masks, classes, target).isnan()  # and no error from the matching


def test_wrong_weights_are_refused() -> None:
    masks, classes, target = batch(4, 3)
    with pytest.raises(ConfigError, match="one value per class"):
        matching_loss(masks, classes, target, class_weights=torch.ones(2))
