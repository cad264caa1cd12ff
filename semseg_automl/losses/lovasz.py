"""The Lovász losses: convex surrogates of the intersection over union (Berman et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.losses.functional import checked, checked_weights, one_vs_rest, weighted_mean


def lovasz(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Lovász hinge (C == 1) or Lovász softmax (C > 1, the mean over present classes), over the batch.

    With a class's errors sorted from the largest down and g the steps of the Jaccard loss as one pixel
    after the other is taken for wrong, the loss is the scalar product of errors and g. Errors: C == 1:
    max(0, 1 - logit * (2 m - 1)), the margin; C > 1: |m - p|. Ignored pixels are left out before sorting.
    Without foreground the hinge penalises only the pixel that errs most, as published. ``class_weights``
    weight the classes for C > 1 and have no effect for C == 1. Pixels beyond the margin of the hinge
    have no gradient. Shapes as in :mod:`semseg_automl.losses.functional`.

    Source: Berman, Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, algorithm 1, equations 8 and 11;
    ``classes="present"``, ``per_image=False`` of its code.
    """
    logits, valid = checked(logits, target)
    classes = logits.shape[1]
    masks = one_vs_rest(target, classes).transpose(0, 1)[:, valid]  # (C, pixels)
    if classes == 1:
        errors = F.relu(1.0 - logits[:, 0][valid] * (2.0 * masks[0] - 1.0))[None]
        present = torch.ones(1, device=logits.device)
    else:
        errors = (masks - logits.softmax(1).transpose(0, 1)[:, valid]).abs()
        present = (masks.sum(1) > 0).float()
    errors, order = errors.sort(dim=1, descending=True)
    losses = (errors * jaccard_steps(masks.gather(1, order))).sum(1)  # (C,)
    weights = torch.ones_like(present)
    if class_weights is not None:
        given = checked_weights(class_weights, max(classes, 2), logits)
        weights = given if classes > 1 else weights
    return weighted_mean(losses, weights * present) + 0.0 * logits.sum()  # a graph without valid pixels


def jaccard_steps(masks: Tensor) -> Tensor:
    """Steps of 1 - IoU as pixel after pixel is mispredicted: (..., N) 0/1 masks -> (..., N).

    In float64 where the device has it: a step of some million pixels is near float32's rounding of 1 - IoU.
    """
    given = masks.dtype
    masks = masks if masks.device.type == "mps" else masks.double()
    total = masks.sum(-1, keepdim=True)
    inter = total - masks.cumsum(-1)
    union = total + (1.0 - masks).cumsum(-1)
    loss = 1.0 - inter / union
    return torch.diff(loss, dim=-1, prepend=torch.zeros_like(loss[..., :1])).to(given)
