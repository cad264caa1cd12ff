"""Centreline Dice for thin structures: roads, cracks, vessels (Shit et al., CVPR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.losses.functional import (
    checked,
    checked_weights,
    cross_entropy,
    one_vs_rest,
    probabilities,
    soft_dice,
    weighted_mean,
)

ITERATIONS = 5
"""Erosions: structures up to about twice so many pixels wide are thinned to their middle."""


def soft_skeleton(x: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """What is left of (B, C, H, W) values in 0..1 between erosion and opening, summed softly.

    Source: algorithm 1 of the paper: erosion is a minimum over a cross, dilation a maximum over 3 x 3.
    """
    skeleton = F.relu(x - _open(x))
    for _ in range(iterations):
        x = _erode(x)
        rest = F.relu(x - _open(x))
        skeleton = skeleton + F.relu(rest - skeleton * rest)
    return skeleton


def _erode(x: Tensor) -> Tensor:
    rows, columns = -F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1))
    return torch.minimum(rows, columns)


def _open(x: Tensor) -> Tensor:
    return F.max_pool2d(_erode(x), 3, 1, 1)


def soft_cl_dice(
    values: Tensor, target: Tensor, *, class_weights: Tensor | None = None, smooth: float = 1.0
) -> Tensor:
    """1 - clDice of (B, C, H, W) probabilities, the mean over present classes.

    clDice is the harmonic mean of the share of the predicted skeleton that lies in the mask and the share
    of the mask's skeleton that is predicted, each (sum + smooth) / (sum + smooth) over the whole batch.
    Ignored pixels count as outside of both. A class is present as in
    :func:`semseg_automl.losses.functional.soft_dice`, which also says what ``class_weights`` do.

    Source: Shit et al., "clDice", CVPR 2021, equations 1 to 3. The published code leaves out channel 0 as
    the background; here every class is one among others.
    """
    values, valid = checked(values, target)
    classes = values.shape[1]
    masks = one_vs_rest(target, classes)
    values = values * valid[:, None]
    thin, true_thin = soft_skeleton(values), soft_skeleton(masks)
    precision = ((thin * masks).sum((0, 2, 3)) + smooth) / (thin.sum((0, 2, 3)) + smooth)
    sensitivity = ((true_thin * values).sum((0, 2, 3)) + smooth) / (true_thin.sum((0, 2, 3)) + smooth)
    score = 2.0 * precision * sensitivity / (precision + sensitivity)
    per_class = torch.ones_like(score)
    if class_weights is not None and classes > 1:
        per_class = per_class * checked_weights(class_weights, classes, values)
    return weighted_mean(1.0 - score, per_class * (masks.sum((0, 2, 3)) > 0))


def ce_cl_dice(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy plus half of soft Dice plus half of soft clDice.

    The halves are the paper's loss with alpha = 0.5 (equation 4). The cross-entropy is added because a batch
    without the class has no Dice loss here.
    """
    values = probabilities(logits)
    overlap = soft_dice(values, target, class_weights=class_weights)
    thin = soft_cl_dice(values, target, class_weights=class_weights)
    return cross_entropy(logits, target, class_weights=class_weights) + 0.5 * (overlap + thin)
