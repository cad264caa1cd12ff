"""Attention with decomposed relative positions (MViTv2, Li et al., 2022) without (N, N) maps in memory.

The score of query q at (y, x) and key k at (y', x') is ``scale * q.k + q.Rh[y - y'] + q.Rw[x - x']``.
The two position terms are themselves a scalar product: of ``[q.Rh[y - .], q.Rw[x - .]]`` (h + w numbers a
query) with the one-hot vectors of y' and x'. So with queries ``[scale * q, q.Rh, q.Rw]`` and keys
``[k, onehot(y'), onehot(x')]`` any memory-lean attention kernel gives the exact result and gradients.
Without gradients on a CPU, one head's bias at a time is cheaper than the wider vectors; with gradients
bfloat16 is lifted to float32 there, because the fused kernel's bfloat16 backward pass is slow on CPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LANES = 16  # widths of the kernel's vectors; the folded head size is padded to a multiple


def relative_table(table: Tensor, side: int) -> Tensor:
    """Rows of a (2 * side0 - 1, d) table for each (query, key) pair on an axis: (side, side, d).

    A table of another size is interpolated linearly, as ``segment_anything``'s ``get_rel_pos`` does.
    """
    if table.shape[0] != 2 * side - 1:
        rows = F.interpolate(table.float().t()[None], size=2 * side - 1, mode="linear")[0].t()
        table = rows.to(table.dtype)
    steps = torch.arange(side, device=table.device)
    return table[steps[:, None] - steps[None] + side - 1]


def relative_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention on a grid.

    Parameters
    ----------
    q, k, v : (B, heads, h*w, d).
    rows : (h, h, d), columns : (w, w, d), from :func:`relative_table`.

    Returns
    -------
    Tensor
        (B, heads, h*w, d).
    """
    if q.device.type == "cpu" and q.dtype != torch.float64:
        with torch.autocast("cpu", enabled=False):
            out = _attend(q.float(), k.float(), v.float(), rows.float(), columns.float())
        return out.to(v.dtype)
    return _attend(q, k, v, rows, columns)


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    b, heads, n, d = q.shape
    h, w = len(rows), len(columns)
    grid = q.view(b, heads, h, w, d)
    rel_h = torch.einsum("bnhwd,hkd->bnhwk", grid, rows.to(q.dtype))  # (B, heads, h, w, h)
    rel_w = torch.einsum("bnhwd,wkd->bnhwk", grid, columns.to(q.dtype))  # (B, heads, h, w, w)
    if q.device.type == "cpu" and not rel_h.requires_grad and not k.requires_grad and not v.requires_grad:
        return _by_head(q, k, v, rel_h, rel_w)
    return _folded(q, k, v, rel_h.reshape(b, heads, n, h), rel_w.reshape(b, heads, n, w))


def _folded(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    b, heads, n, d = q.shape
    h, w = rel_h.shape[-1], rel_w.shape[-1]
    spare = -(d + h + w) % _LANES
    token = torch.arange(n, device=q.device)
    hot = torch.cat([F.one_hot(token // w, h), F.one_hot(token % w, w + spare)], dim=1)  # (N, h+w+spare)
    hot = hot.to(q.dtype)
    wide_q = torch.cat([q * d**-0.5, rel_h, rel_w, q.new_zeros(b, heads, n, spare)], dim=-1)
    wide_k = torch.cat([k, hot.expand(b, heads, n, -1)], dim=-1)
    wide_v = F.pad(v, (0, h + w + spare))
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., :d]


def _by_head(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    b, heads, n, _ = q.shape
    h, w = rel_h.shape[-1], rel_w.shape[-1]
    out = torch.empty_like(v)
    bias = q.new_empty(b, 1, h, w, h, w)
    for i in range(heads):
        torch.add(rel_h[:, i : i + 1, ..., None], rel_w[:, i : i + 1, ..., None, :], out=bias)
        one = slice(i, i + 1)
        mask = bias.view(b, 1, n, n)
        out[:, one] = F.scaled_dot_product_attention(q[:, one], k[:, one], v[:, one], attn_mask=mask)
    return out
