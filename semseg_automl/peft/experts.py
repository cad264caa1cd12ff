"""The mixture of experts with a GELU between their interpolations, which then do not fold into one kernel.

Experts run one by one on the units that kept them: at native resolution where that is exact
(:mod:`semseg_automl.peft.fold_gelu`), else written out, where scale s costs s^2 pixels.
How many units an expert sees depends on the gates' values; where the pass is recorded all see all.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from semseg_automl.peft.fold_gelu import folded_expert, is_exact
from semseg_automl.peft.tracing import asks_no_host


def gelu_mixture(
    units: Tensor,
    weights: Tensor,
    branch: Tensor,
    kernels: Tensor,
    bias: Tensor,
    scales: Sequence[int],
    *,
    compat: bool,
) -> Tensor:
    """z + sum_i weights_i * E_i(z); experts run only on the units that kept them.

    Parameters
    ----------
    units : Tensor (U, h, w, r)
        Whole maps or windows; a unit's border is where the convolution pads.
    weights : Tensor (U, 1 or h, 1 or w, E)
        Gates, 0 where an expert was not kept.
    branch : Tensor int64 (U,)
        Which set of experts each unit uses.
    kernels, bias : Tensor (G, E, r, r, 3, 3), (G, E, r)
    scales : sequence of int, length E
    compat : bool
        True: bicubic and zero padding (the released code); False: bilinear and replicate padding.

    Returns
    -------
    Tensor (U, h, w, r)
    """
    weights = weights.to(units.dtype)
    out = units
    kept = (weights.detach() != 0).flatten(1, 2).any(1)  # (U, E)
    if not asks_no_host():  # the host decides what runs: ask the device once, not once an expert
        kept, branch = kept.cpu(), branch.cpu()
    for g in range(len(kernels)):
        for i, scale in enumerate(scales):
            if asks_no_host():  # the picture decides which units, so run all; gates of the others are 0
                value = expert(units, kernels[g, i], bias[g, i], scale, compat=compat)
                mine = (branch == g).to(weights.dtype)[:, None, None, None]
                out = out + value * weights[..., i : i + 1] * mine
                continue
            chosen = (kept[:, i] & (branch == g)).nonzero().squeeze(1)
            if len(chosen) == 0:
                continue
            chosen = chosen.to(units.device, non_blocking=True)
            form = folded_expert if is_exact(scale, compat=compat) else expert
            value = form(units[chosen], kernels[g, i], bias[g, i], scale, compat=compat)
            value = value * weights[chosen, ..., i : i + 1]
            out = out.index_add(0, chosen, value.to(out.dtype))  # autocast resizes in float32 on CUDA
    nothing = 0.0 * (kernels.sum() + bias.sum())
    return out + nothing.to(out.dtype)  # a zero gradient for experts that nobody kept


def expert(z: Tensor, kernel: Tensor, bias: Tensor, scale: int, *, compat: bool) -> Tensor:
    """down_s(GELU(conv3x3(up_s(z)))) on (N, h, w, r), written out; ``compat`` as in :func:`gelu_mixture`."""
    mode = "bicubic" if compat else "bilinear"
    maps = z.permute(0, 3, 1, 2)  # (N, h, w, r) -> (N, r, h, w)
    if scale > 1:
        maps = F.interpolate(maps, scale_factor=float(scale), mode=mode, align_corners=False)
    padded = F.pad(maps, (1, 1, 1, 1), mode="constant" if compat else "replicate")
    y = F.gelu(F.conv2d(padded, kernel.to(z.dtype), bias.to(z.dtype)))
    if scale > 1:
        y = F.interpolate(y, size=z.shape[1:3], mode=mode, align_corners=False)
    return y.permute(0, 2, 3, 1)
