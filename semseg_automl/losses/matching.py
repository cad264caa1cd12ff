"""The loss of mask classification: each segment is matched with one query, the other queries say "nothing".

Source: Cheng, Schwing, Kirillov, "Per-Pixel Classification is Not All You Need" (MaskFormer), NeurIPS 2021,
with the weights of Mask2Former (Cheng et al., CVPR 2022). A picture's segments are the masks of the classes
that its valid pixels show, one a class. Matching minimises the sum over segments of

    -2 p_q(class) + 5 BCE(mask_q, segment) + 5 Dice(mask_q, segment)

(the Hungarian method, :func:`scipy.optimize.linear_sum_assignment`); the loss is

    2 CE + (5 sum BCE + 5 sum Dice) / number of matched segments,

with CE the mean over all queries of the cross-entropy of their classes, weight 0.1 where nothing is matched.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.losses.functional import IGNORE, checked_weights, weighted_mean

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
NO_OBJECT_WEIGHT = 0.1


def matching_loss(
    masks: Tensor, classes: Tensor, target: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Loss of queries against class indices; see the module for the formula.

    Deliberate differences from the source: BCE and Dice are taken over all valid pixels, not over sampled
    points; matching looks at the masks' own resolution, the loss at the target's. There is no loss at
    inner layers of the decoder.

    Parameters
    ----------
    masks : (B, Q, h, w) logits, any float dtype; h and w divide the target's size.
    classes : (B, Q, K + 1) logits, the last being "nothing".
    target : (B, H, W) int64 class indices in 0..K-1, or :data:`~semseg_automl.losses.functional.IGNORE`.
    class_weights : (K,), of the segments' terms, or None for ones.

    Returns
    -------
    Tensor
        float32 scalar. Pictures without a valid pixel take no part; a batch of them gives 0 with a graph.
        With fewer queries than segments the cheapest matching leaves some segments out.
    """
    masks, classes = masks.float(), classes.float()
    kinds = classes.shape[-1] - 1
    weights = torch.ones(kinds, device=masks.device)
    if class_weights is not None:
        weights = checked_weights(class_weights, kinds, masks)
    terms, shares, wanted, counts = [], [], [], []
    nothing = torch.full(classes.shape[1:2], kinds, device=target.device)
    for mask, kind, truth in zip(masks, classes, target, strict=True):
        valid = truth != IGNORE
        labels = nothing.clone()
        present = truth[valid].unique()
        if len(present):
            segments = (truth == present[:, None, None]).float()  # (S, H, W)
            queries, which = match(mask.detach(), kind.detach(), present, segments, valid)
            labels[queries] = present[which]
            terms.append(_mask_terms(mask[queries], segments[which], valid))
            shares.append(weights[present[which]])
        wanted.append(labels)
        counts.append(float(len(present) > 0))
    matched = torch.zeros((), device=masks.device)
    if terms:
        matched = weighted_mean(torch.cat(terms), torch.cat(shares))
    labels = torch.stack(wanted)  # (B, Q)
    nll = F.cross_entropy(classes.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    by_kind = torch.cat([weights, weights.new_tensor([NO_OBJECT_WEIGHT])])
    named = weighted_mean(nll, by_kind[labels] * masks.new_tensor(counts)[:, None])
    return CLASS_WEIGHT * named + matched + 0.0 * masks.sum()  # a graph where nothing is matched


@torch.no_grad()
def match(
    mask: Tensor, kind: Tensor, present: Tensor, segments: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """The cheapest pairs of queries and segments of one picture.

    Parameters
    ----------
    mask, kind : (Q, h, w) and (Q, K + 1) logits.
    present : (S,) classes of the segments.
    segments, valid : (S, H, W) 0/1 and (H, W) bool.

    Returns
    -------
    queries, which : int64 (min(Q, S),), indices of the pairs.
    """
    with torch.autocast(mask.device.type, enabled=False):  # its products are off by 0.2 in bfloat16
        cost = _costs(mask, kind, present, segments, valid)
    queries, which = linear_sum_assignment(cost.nan_to_num(1e6, 1e6, -1e6).cpu().numpy())
    device = mask.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(which, device=device)


def _costs(mask: Tensor, kind: Tensor, present: Tensor, segments: Tensor, valid: Tensor) -> Tensor:
    """(Q, S) cost of each pair; see :func:`match`."""
    size = (mask.shape[-2], mask.shape[-1])
    share = F.adaptive_avg_pool2d(valid.float()[None], size)[0].flatten()  # (h*w,), of valid pixels
    truth = F.adaptive_avg_pool2d(segments, size).flatten(1)  # (S, h*w), of the segment's pixels
    flat = mask.flatten(1)  # (Q, h*w)
    on, off = F.softplus(-flat), F.softplus(flat)  # BCE against 1 and against 0
    bce = (on @ truth.t() + off @ (share - truth).t()) / share.sum().clamp_min(1e-6)  # (Q, S)
    p = flat.sigmoid() * share
    dice = 1.0 - (2.0 * (flat.sigmoid() @ truth.t()) + 1.0) / (p.sum(1)[:, None] + truth.sum(1) + 1.0)
    return -CLASS_WEIGHT * kind.softmax(-1)[:, present] + MASK_WEIGHT * bce + DICE_WEIGHT * dice


def _mask_terms(mask: Tensor, segments: Tensor, valid: Tensor) -> Tensor:
    """5 BCE + 5 Dice of matched pairs: (M, h, w) logits and (M, H, W) masks -> (M,)."""
    logits = F.interpolate(mask[:, None], size=segments.shape[-2:], mode="bilinear", align_corners=False)
    flat, truth = logits[:, 0][:, valid], segments[:, valid]  # (M, valid pixels)
    bce = F.binary_cross_entropy_with_logits(flat, truth, reduction="none").mean(1)
    p = flat.sigmoid()
    dice = 1.0 - (2.0 * (p * truth).sum(1) + 1.0) / (p.sum(1) + truth.sum(1) + 1.0)
    return MASK_WEIGHT * bce + DICE_WEIGHT * dice
