"""Segmentation losses as pure functions of logits and class indices.

Shared conventions
------------------
``logits``: (B, C, H, W), any floating dtype, computed in float32. C == 1 is the sigmoid form: the
channel is class 1 (foreground). C > 1 holds one channel per class.
``target``: (B, H, W) int64 class indices in 0..K-1 with K = max(C, 2); :data:`IGNORE` marks pixels
that take no part at all. In the sigmoid form every other value than 1 and IGNORE is background.
``class_weights``: (K,) non-negative, or None for ones.
Result: a float32 scalar. A batch with nothing but ignored pixels gives 0 with a graph, so that
every parameter gets a zero gradient. NaN in the logits gives NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.errors import ConfigError

IGNORE = -1
"""Class index of pixels that take no part (the same value as in ``data`` and ``metrics``)."""


def box_mean(x: Tensor, kernel: int) -> Tensor:
    """Mean over a square window around each pixel, zeros outside the picture counted.

    Equals ``F.avg_pool2d(x, kernel, stride=1, padding=kernel // 2)``, but as differences of
    running sums: the cost does not grow with the kernel (tens of times faster at 31 on a CPU).
    Exact for masks of zeros and ones. ``x``: (B, C, H, W); ``kernel``: odd, in pixels.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigError(f"kernel must be a positive odd number of pixels, got {kernel}.")
    half = kernel // 2
    padded = F.pad(x, (half + 1, half, half + 1, half))  # (B, C, H + kernel, W + kernel)
    rows = padded.cumsum(-1)
    rows = rows[..., kernel:] - rows[..., :-kernel]  # (B, C, H + kernel, W)
    both = rows.cumsum(-2)
    both = both[..., kernel:, :] - both[..., :-kernel, :]  # (B, C, H, W)
    return both / kernel**2


def structure(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, kernel: int = 31
) -> Tensor:
    """Structure loss: boundary-weighted BCE plus boundary-weighted IoU, one-vs-rest for C > 1.

    With m the 0/1 mask of a class and w = 1 + 5 |mean over a kernel x kernel window of m - m|::

        wBCE = sum(w * BCE) / sum(w)
        wIoU = 1 - (sum(w p m) + 1) / (sum(w (p + m)) - sum(w p m) + 1)

    per picture and class, then the mean over pictures and classes, weighted by ``class_weights``
    for C > 1. For C == 1 these, divided by their mean, multiply w by the pixel's class.
    Pictures without a valid pixel are left out. A class that a picture doesn't show has m = 0: its
    channel is pushed down.

    The window is the published 31 pixels, defined there for inputs of 352 pixels; it is not
    rescaled here. As published, the outside of the picture counts as background in the window's
    mean. Ignored pixels are left out of both its sum and its count.

    Source: Wei, Wang, Huang, "F3Net", AAAI 2020 (also PraNet, MICCAI 2020). AutoGluon's copy passes
    ``reduce="none"`` to the BCE, which torch reads as the mean, so there the BCE is not weighted;
    here it is, as in the formula above.
    """
    return _structure(logits, target, class_weights, kernel, weighted_bce=True)


def structure_compat(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, kernel: int = 31
) -> Tensor:
    """Structure loss as AutoGluon's released code computes it: the BCE is not boundary-weighted.

    Its copy of the published code passes ``reduce="none"``, which torch reads as the mean, so
    the first term is the plain mean of the BCE over a picture's valid pixels (for C == 1 weighted by
    their classes). The rest is :func:`structure`.

    Source: AutoGluon MultiModal 1.6, the loss that the Conv-LoRA paper's code trains with.
    """
    return _structure(logits, target, class_weights, kernel, weighted_bce=False)


def _structure(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, kernel: int, *, weighted_bce: bool
) -> Tensor:
    logits, valid = checked(logits, target)
    classes = logits.shape[1]
    masks = one_vs_rest(target, classes)  # (B, C, H, W)
    with torch.no_grad():
        kept = valid[:, None].float()  # (B, 1, H, W)
        counted = 1.0 - box_mean(1.0 - kept, kernel)  # share of the window that is not ignored
        mean = box_mean(masks * kept, kernel) / counted.clamp_min(0.5 / kernel**2)
        relative = kept
        if class_weights is not None and classes == 1:
            pixels = _pixel_weights(class_weights / class_weights.mean(), target, 2)
            relative = kept * pixels[:, None]
        weight = (1.0 + 5.0 * (mean - masks).abs()) * relative
        bce_weight = weight if weighted_bce else relative.expand_as(weight)
        total = bce_weight.sum((2, 3))  # (B, C)
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    wbce = (bce_weight * bce).sum((2, 3)) / total.clamp_min(1e-12)
    weighted_p = weight * logits.sigmoid()
    inter = (weighted_p * masks).sum((2, 3))
    union = weighted_p.sum((2, 3)) + (weight * masks).sum((2, 3)) - inter
    wiou = 1.0 - (inter + 1.0) / (union + 1.0)
    per_class = torch.ones_like(total)
    if class_weights is not None and classes > 1:
        per_class = per_class * checked_weights(class_weights, classes, logits)
    return weighted_mean(wbce + wiou, per_class * (total > 0))


def cross_entropy(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over valid pixels; C == 1 is binary cross-entropy on the foreground logit.

    With ``class_weights`` the mean is weighted by each pixel's class, as in torch.
    """
    logits, valid = checked(logits, target)
    return _pixel_mean(_negative_log_likelihood(logits, target), target, valid, logits, class_weights)


def soft_dice(
    probabilities: Tensor, target: Tensor, *, class_weights: Tensor | None = None, smooth: float = 1.0
) -> Tensor:
    """Soft Dice loss, 1 - (2 sum(p m) + smooth) / (sum p + sum m + smooth), mean over present classes.

    Sums run over the whole batch. A class is present if the batch's valid pixels show it; with
    none present the loss is 0 (with a graph). For C == 1 only the foreground counts.
    ``probabilities``: (B, C, H, W) in 0..1 (not logits).

    Source: Milletari et al., "V-Net", 3DV 2016, with plain instead of squared sums, as in
    segmentation_models_pytorch, which divides by all classes instead of the present ones.
    """
    probabilities, valid = checked(probabilities, target)
    classes = probabilities.shape[1]
    masks = one_vs_rest(target, classes)
    predicted = (probabilities * valid[:, None]).sum((0, 2, 3))  # (C,)
    inter, area = (probabilities * masks).sum((0, 2, 3)), masks.sum((0, 2, 3))  # (C,), (C,)
    score = (2.0 * inter + smooth) / (predicted + area + smooth).clamp_min(1e-7)
    per_class = torch.ones_like(area)
    if class_weights is not None and classes > 1:
        per_class = per_class * checked_weights(class_weights, classes, probabilities)
    return weighted_mean(1.0 - score, per_class * (area > 0))


def ce_dice(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy plus soft Dice of the softmax (C > 1) or the sigmoid (C == 1)."""
    dice = soft_dice(probabilities(logits), target, class_weights=class_weights)
    return cross_entropy(logits, target, class_weights=class_weights) + dice


def bce_dice(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus soft Dice of the sigmoid; one-vs-rest for C > 1."""
    logits, valid = checked(logits, target)
    masks = one_vs_rest(target, logits.shape[1])
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")  # (B, C, H, W)
    if logits.shape[1] == 1:
        mean = _pixel_mean(bce[:, 0], target, valid, logits, class_weights)
    else:
        per_class = valid[:, None] * torch.ones_like(masks)
        if class_weights is not None:
            weights = checked_weights(class_weights, logits.shape[1], logits)
            per_class = per_class * weights[:, None, None]  # (C, 1, 1)
        mean = weighted_mean(bce, per_class)
    return mean + soft_dice(logits.sigmoid(), target, class_weights=class_weights)


def focal_dice(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """:func:`focal` plus soft Dice of the softmax (C > 1) or the sigmoid (C == 1)."""
    dice = soft_dice(probabilities(logits), target, class_weights=class_weights)
    return focal(logits, target, class_weights=class_weights, gamma=gamma) + dice


def focal(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Focal loss: the mean over valid pixels of (1 - p_t)^gamma * cross-entropy.

    p_t is the probability of the true class: softmax for C > 1, sigmoid for C == 1. The balance
    factor of the paper is ``class_weights``.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4 (softmax form for
    many classes, where segmentation_models_pytorch takes one sigmoid per class).
    """
    logits, valid = checked(logits, target)
    nll = _negative_log_likelihood(logits, target)  # (B, H, W)
    values = (-torch.expm1(-nll)).clamp_min(0.0) ** gamma * nll  # 1 - p_t without cancellation
    return _pixel_mean(values, target, valid, logits, class_weights)


def balanced_bce(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with every present class counting the same: the mean over classes of class means.

    For C == 1 that is half the mean BCE over the foreground's pixels plus half that over the
    background's, the differentiable form of the balanced error rate. Means run over the whole batch;
    a class that the batch's valid pixels don't show is left out. ``class_weights`` weight the classes.

    Source: Xie and Tu, "Holistically-Nested Edge Detection", ICCV 2015, equation 2 (used for shadows
    by Zhu et al., ECCV 2018, and by AutoGluon). Theirs is this times 2 P N / (P + N)^2, with P and N
    the numbers of foreground and background pixels, a factor that makes batches with little
    foreground count little; it is left out here.
    """
    logits, valid = checked(logits, target)
    classes = max(logits.shape[1], 2)
    nll = _negative_log_likelihood(logits, target)  # (B, H, W)
    index = (target == 1).long() if logits.shape[1] == 1 else _safe(target, classes)
    own = F.one_hot(index, classes) * valid[..., None]  # (B, H, W, K)
    area = own.sum((0, 1, 2)).float()  # (K,)
    means = (own * nll[..., None]).sum((0, 1, 2)) / area.clamp_min(1.0)
    weights = torch.ones_like(area)
    if class_weights is not None:
        weights = weights * checked_weights(class_weights, classes, logits)
    return weighted_mean(means, weights * (area > 0))


def checked(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 logits and the (B, H, W) mask of pixels that count; ConfigError where the sizes differ."""
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ConfigError(
            f"A loss needs logits (B, C, H, W) and a target (B, H, W) of the same size, "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}."
        )
    return logits.float(), target != IGNORE


def checked_weights(class_weights: Tensor, classes: int, like: Tensor) -> Tensor:
    """Class weights as float32 on ``like``'s device; ConfigError unless there is one for each class."""
    if tuple(class_weights.shape) != (classes,):
        raise ConfigError(
            f"class_weights must have one value per class, ({classes},), got {tuple(class_weights.shape)}."
        )
    return class_weights.to(device=like.device, dtype=torch.float32)


def probabilities(logits: Tensor) -> Tensor:
    """Sigmoid (C == 1) or softmax over the channels, float32."""
    return logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1)


def against_the_rest(logits: Tensor) -> Tensor:
    """Logits whose sigmoids are the softmax of ``logits`` (B, C, H, W), float32, within +-16; C > 1."""
    return torch.logit(logits.float().softmax(1), eps=1e-7)


def _safe(target: Tensor, classes: int) -> Tensor:
    """Indices for ``gather``: ignored pixels (masked out elsewhere) point at channel 0."""
    return torch.zeros_like(target) if classes == 1 else torch.where(target == IGNORE, 0, target)


def one_vs_rest(target: Tensor, classes: int) -> Tensor:
    """(B, H, W) indices -> (B, C, H, W) float masks; ignored pixels are 0 in all of them."""
    wanted = torch.arange(classes, device=target.device) if classes > 1 else target.new_ones(1)
    return (target[:, None] == wanted[:, None, None]).float()  # (C,) -> (C, 1, 1)


def _negative_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of each pixel's class, (B, H, W); ignored pixels hold a value that must not be used."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (target == 1).float(), reduction="none")
    return -logits.log_softmax(1).gather(1, _safe(target, logits.shape[1])[:, None])[:, 0]


def _pixel_weights(class_weights: Tensor, target: Tensor, classes: int) -> Tensor:
    """Each pixel's class weight, (B, H, W); ignored pixels hold the weight of class 0."""
    index = (target == 1).long() if classes == 2 else _safe(target, classes)
    return checked_weights(class_weights, classes, target)[index]


def _pixel_mean(
    values: Tensor, target: Tensor, valid: Tensor, logits: Tensor, class_weights: Tensor | None
) -> Tensor:
    """Mean of (B, H, W) values over valid pixels, weighted by class."""
    weight = valid.float()
    if class_weights is not None:
        weight = weight * _pixel_weights(class_weights, target, max(logits.shape[1], 2))
    return weighted_mean(values, weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """sum(w v) / sum(w); 0 with a graph where no weight is left."""
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))
