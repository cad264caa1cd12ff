"""Experts written out: upsample, convolve, GELU, downsample. Scale s costs s^2 pixels.

Needed where a GELU stands between the two interpolations, which then do not fold. How many units an expert
sees depends on the gates' values, so torch.export refuses this form (the folded one it takes).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def written_out_mixture(
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
    kernels, bias = kernels.to(units.dtype), bias.to(units.dtype)
    weights = weights.to(units.dtype)
    maps = units.permute(0, 3, 1, 2)  # (U, h, w, r) -> (U, r, h, w)
    out = units
    kept = (weights.detach() != 0).flatten(1, 2).any(1)  # (U, E)
    for g in range(len(kernels)):
        for i, scale in enumerate(scales):
            chosen = (kept[:, i] & (branch == g)).nonzero().squeeze(1)
            if len(chosen) == 0:
                continue
            value = expert(maps[chosen], kernels[g, i], bias[g, i], scale, compat=compat)
            value = value.permute(0, 2, 3, 1)  # (u, r, h, w) -> (u, h, w, r)
            out = out.index_add(0, chosen, value * weights[chosen, ..., i : i + 1])
    return out + 0.0 * (kernels.sum() + bias.sum())  # a zero gradient for experts that nobody kept


def expert(z: Tensor, kernel: Tensor, bias: Tensor, scale: int, *, compat: bool) -> Tensor:
    """down_s(GELU(conv3x3(up_s(z)))) on (N, r, h, w); see :func:`written_out_mixture` for ``compat``."""
    mode = "bicubic" if compat else "bilinear"
    up = z if scale == 1 else F.interpolate(z, scale_factor=float(scale), mode=mode, align_corners=False)
    padded = F.pad(up, (1, 1, 1, 1), mode="constant" if compat else "replicate")
    y = F.gelu(F.conv2d(padded, kernel, bias))
    return y if scale == 1 else F.interpolate(y, size=z.shape[-2:], mode=mode, align_corners=False)
