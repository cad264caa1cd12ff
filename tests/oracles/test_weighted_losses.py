"""Every registered loss written out in float64, pixel by pixel, with and without weights of the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semseg_automl.losses.cl_dice import soft_cl_dice
from semseg_automl.losses.functional import IGNORE, soft_dice
from semseg_automl.losses.registry import LOSSES

Array = np.ndarray
HALF = 15  # of the published window of 31 pixels


def batch(classes: int, *, ignore: bool) -> tuple[Array, Array]:
    """Logits (3, C, 12, 17) and blobs; the last of many classes is absent, the third may not count."""
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(3, classes, 12, 17, generator=generator)
    coarse = torch.rand(3, max(classes - 1, 2), 5, 5, generator=generator)
    target = F.interpolate(coarse, (12, 17), mode="bilinear").argmax(1)
    if ignore:
        target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
        target[:, 3:6, 4:9] = IGNORE
        target[2] = IGNORE
    return logits.numpy().astype(np.float64), target.numpy()


def given_weights(classes: int, weighted: bool) -> list[float]:
    return [0.3, 2.3, 0.9, 8.0][: max(classes, 2)] if weighted else [1.0] * max(classes, 2)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def shares(logits: Array) -> Array:
    """Softmax over the channels, or the sigmoid of the only one."""
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def valid_pixels(target: Array) -> Iterator[tuple[int, int, int]]:
    return ((b, y, x) for b, y, x in np.ndindex(*target.shape) if target[b, y, x] != IGNORE)


def channel_classes(logits: Array) -> list[int]:
    """The class that each channel stands for."""
    return [1] if logits.shape[1] == 1 else list(range(logits.shape[1]))


def mean(values: list[float], weights: list[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def over_pixels(term: Callable[[float], float], logits: Array, target: Array, w: list[float]) -> float:
    """The mean of a function of the true class's probability, weighted by that class."""
    p, values, weights = shares(logits), [], []
    for b, y, x in valid_pixels(target):
        k = target[b, y, x]
        true = p[b, k, y, x] if logits.shape[1] > 1 else p[b, 0, y, x] if k == 1 else 1 - p[b, 0, y, x]
        values.append(term(true))
        weights.append(w[k])
    return mean(values, weights)


def cross_entropy(logits: Array, target: Array, w: list[float]) -> float:
    return over_pixels(lambda p: -math.log(p), logits, target, w)


def focal(logits: Array, target: Array, w: list[float]) -> float:
    return over_pixels(lambda p: -((1 - p) ** 2) * math.log(p), logits, target, w)


def over_classes(term: Callable[[Array, Array], float], p: Array, target: Array, w: list[float]) -> float:
    """The weighted mean over present classes of a function of (B, H, W) shares and masks."""
    wanted = channel_classes(p)
    present = [(c, k) for c, k in enumerate(wanted) if (target == k).any()]
    kept = (target != IGNORE).astype(np.float64)
    values = [term(p[:, c] * kept, (target == k).astype(np.float64)) for c, k in present]
    return mean(values, [w[k] for _, k in present])


def dice_of(p: Array, m: Array) -> float:
    return 1 - (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1)


def dice(logits: Array, target: Array, w: list[float]) -> float:
    return over_classes(dice_of, shares(logits), target, w)


def smallest(picture: Array, offsets: list[tuple[int, int]]) -> Array:
    """The minimum over a pixel's neighbours that lie in the picture."""
    out = np.empty_like(picture)
    for y, x in np.ndindex(*picture.shape):
        near = [(y + j, x + i) for j, i in offsets]
        inside = [(j, i) for j, i in near if 0 <= j < picture.shape[0] and 0 <= i < picture.shape[1]]
        out[y, x] = min(picture[place] for place in inside)
    return out


CROSS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
SQUARE = [(j, i) for j in (-1, 0, 1) for i in (-1, 0, 1)]


def skeleton(picture: Array) -> Array:
    """Algorithm 1 of Shit et al. with k = 5 on one (H, W) picture."""

    def opened(x: Array) -> Array:
        return -smallest(-smallest(x, CROSS), SQUARE)

    out = np.maximum(picture - opened(picture), 0)
    for _ in range(5):
        picture = smallest(picture, CROSS)
        out = out + (1 - out) * np.maximum(picture - opened(picture), 0)
    return out


def cl_dice_of(p: Array, m: Array) -> float:
    thin, true_thin = (np.stack([skeleton(one) for one in pictures]) for pictures in (p, m))
    precision = ((thin * m).sum() + 1) / (thin.sum() + 1)
    sensitivity = ((true_thin * p).sum() + 1) / (true_thin.sum() + 1)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def cl_dice(logits: Array, target: Array, w: list[float]) -> float:
    return over_classes(cl_dice_of, shares(logits), target, w)


def bce_dice(logits: Array, target: Array, w: list[float]) -> float:
    """One sigmoid a class, each pixel's term of it weighted; the foreground's alone: weighted by pixel."""
    p = 1 / (1 + np.exp(-logits))
    overlap = over_classes(dice_of, p, target, w)
    if logits.shape[1] == 1:
        return cross_entropy(logits, target, w) + overlap
    values, weights = [], []
    for b, y, x in valid_pixels(target):
        for k in range(logits.shape[1]):
            values.append(-math.log(p[b, k, y, x] if target[b, y, x] == k else 1 - p[b, k, y, x]))
            weights.append(w[k])
    return mean(values, weights) + overlap


def balanced(logits: Array, target: Array, w: list[float]) -> float:
    present = [k for k in range(len(w)) if (target == k).any()]
    means = [cross_entropy(logits, np.where(target == k, target, IGNORE), [1.0] * len(w)) for k in present]
    return mean(means, [w[k] for k in present])


def lovasz(logits: Array, target: Array, w: list[float]) -> float:
    """Errors from the largest down times the growth of |wrong| / |class or wrong|, wrong so far."""
    p, losses = shares(logits), []
    wanted = [(c, k) for c, k in enumerate(channel_classes(logits)) if (target == k).any()]
    for c, k in wanted:
        errors = []
        for b, y, x in valid_pixels(target):
            inside = target[b, y, x] == k
            margin = max(0.0, 1 - logits[b, c, y, x] * (1 if inside else -1))
            errors.append((margin if logits.shape[1] == 1 else abs(inside - p[b, c, y, x]), inside))
        size, wrong, outside, before, loss = sum(i for _, i in errors), 0, 0, 0.0, 0.0
        for error, inside in sorted(errors, reverse=True):
            wrong, outside = wrong + 1, outside + (not inside)
            after = wrong / (size + outside)
            loss, before = loss + error * (after - before), after
        losses.append(loss)
    return mean(losses, [w[k] for _, k in wanted])


def boundary(mask: Array, kept: Array) -> Array:
    """1 + 5 |mean over the window - mask|: outside is background, ignored pixels are in no sum."""
    out = np.ones_like(mask)
    for y, x in np.ndindex(*mask.shape):
        window = np.s_[max(0, y - HALF) : y + HALF + 1, max(0, x - HALF) : x + HALF + 1]
        count = (2 * HALF + 1) ** 2 - (1 - kept[window]).sum()
        out[y, x] += 5 * abs((mask * kept)[window].sum() / count - mask[y, x])
    return out


def structure(logits: Array, target: Array, w: list[float], *, released: bool = False) -> float:
    """Picture by picture, class by class; one channel: w over its mean multiplies each pixel's weight."""
    terms, weights = [], []
    for b in range(len(target)):
        kept = (target[b] != IGNORE).astype(np.float64)
        for c, k in enumerate(channel_classes(logits)):
            mask = (target[b] == k).astype(np.float64)
            edge, bottom, top, inter, union = boundary(mask, kept), 0.0, 0.0, 0.0, 0.0
            for y, x in zip(*np.nonzero(kept), strict=True):
                own = w[int(mask[y, x])] / np.mean(w) if logits.shape[1] == 1 else 1.0
                p, m, weight = sigmoid(logits[b, c, y, x]), mask[y, x], edge[y, x] * own
                share = own if released else weight
                top -= share * math.log(p if m else 1 - p)
                bottom += share
                inter += weight * p * m
                union += weight * (p + m - p * m)
            if bottom:  # else the picture has no valid pixel
                terms.append(top / bottom + 1 - (inter + 1) / (union + 1))
                weights.append(w[k] if logits.shape[1] > 1 else 1.0)
    return mean(terms, weights)


ORACLES: dict[str, Callable[[Array, Array, list[float]], float]] = {
    "structure": structure,
    "structure_compat": lambda x, t, w: structure(x, t, w, released=True),
    "ce_dice": lambda x, t, w: cross_entropy(x, t, w) + dice(x, t, w),
    "bce_dice": bce_dice,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "focal_dice": lambda x, t, w: focal(x, t, w) + dice(x, t, w),
    "balanced_bce": balanced,
    "lovasz": lovasz,
    "cl_dice": lambda x, t, w: cross_entropy(x, t, w) + 0.5 * dice(x, t, w) + 0.5 * cl_dice(x, t, w),
}


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_weighted_terms(name: str, classes: int, weighted: bool, ignore: bool) -> None:
    logits, target = batch(classes, ignore=ignore)
    w = given_weights(classes, weighted)
    expected = ORACLES[name](logits, target, w)
    actual = LOSSES[name](
        torch.tensor(logits).float(),
        torch.tensor(target),
        class_weights=torch.tensor(w) if weighted else None,
    )
    assert actual.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize(("loss", "oracle"), [(soft_dice, dice), (soft_cl_dice, cl_dice)])
def test_an_overlap_is_its_weighted_terms(loss: Callable, oracle: Callable, classes: int) -> None:
    logits, target = batch(classes, ignore=True)
    w = given_weights(classes, True)
    p = torch.tensor(shares(logits)).float()
    actual = loss(p, torch.tensor(target), class_weights=torch.tensor(w))
    assert actual.item() == pytest.approx(oracle(logits, target, w), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_matter(name: str) -> None:
    """So that the test above is one: only the hinge of one channel has no use for them."""
    for classes in (1, 4):
        logits, target = batch(classes, ignore=True)
        ones, others = (ORACLES[name](logits, target, given_weights(classes, w)) for w in (False, True))
        assert (ones == pytest.approx(others, rel=1e-4)) == (name == "lovasz" and classes == 1)
