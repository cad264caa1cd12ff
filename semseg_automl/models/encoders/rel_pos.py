"""Attention with decomposed relative positions (MViTv2, Li et al., 2022); memory is linear in the tokens.

The score of query q at (y, x) and key k at (y', x') is ``scale * q.k + q.Rh[y - y'] + q.Rw[x - x']``.

On a CPU blocks of queries are attended one after another, so that never more than ``_BLOCK`` scores are
in memory; for the backward pass nothing is kept but q, k and v, and each block's scores are formed again.

On other devices the two position terms become a scalar product of their own: of
``[q.Rh[y - .], q.Rw[x - .]]`` (h + w numbers a query) with the one-hot vectors of y' and x'. So with queries
``[scale * q, q.Rh, q.Rw]`` and keys ``[k, onehot(y'), onehot(x')]`` any memory-lean attention kernel gives
the exact result and gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semseg_automl.peft.tracing import is_traced

_LANES = 16  # widths of the kernel's vectors; the folded head size is padded to a multiple
_FLASH_WIDTH = 256  # of a head at most for CUDA's flash kernels: half precision, values as wide as keys
_FEW_TOKENS, _HEAD_GROUPS = 1024, 6
"""With more tokens, a prediction on a GPU attends in so many groups of heads: the folded heads of a few are
in memory at once, and they widen with the picture's sides."""
_BLOCK = 1 << 20  # scores in memory at once (4 MB in float32, several such arrays): they stay in the cache


def relative_table(table: Tensor, side: int) -> Tensor:
    """Rows of a (2 * side0 - 1, d) table for each (query, key) pair on an axis: (side, side, d).

    A table of another size is interpolated linearly, as ``segment_anything``'s ``get_rel_pos`` does.
    """
    if is_traced() or table.shape[0] != 2 * side - 1:
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
        (B, heads, h*w, d), in the dtype of ``v``. On a CPU computed in float32 at least.
    """
    if is_traced():
        return _written_out(q, k, v, rows, columns)
    if q.device.type != "cpu":
        if torch.is_grad_enabled() or q.shape[2] <= _FEW_TOKENS:
            return _folded(q, k, v, rows, columns)
        return _folded_in_groups(q, k, v, rows, columns)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", enabled=False):
        tensors = [x.to(wide) for x in (q, k, v, rows, columns)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            out: Tensor = _BlockAttention.apply(*tensors)
        else:
            out = _attend(*tensors)
    return out.to(v.dtype)


def _folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    b, heads, n, d = q.shape
    h, w = len(rows), len(columns)
    grid = q.view(b, heads, h, w, d)
    rel_h = torch.einsum("bnhwd,hkd->bnhwk", grid, rows.to(q.dtype)).reshape(b, heads, n, h)
    rel_w = torch.einsum("bnhwd,wkd->bnhwk", grid, columns.to(q.dtype)).reshape(b, heads, n, w)
    spare = -(d + h + w) % _LANES
    token = torch.arange(n, device=q.device)
    hot = torch.cat([F.one_hot(token // w, h), F.one_hot(token % w, w + spare)], dim=1)  # (N, h+w+spare)
    hot = hot.to(q.dtype)
    wide_q = torch.cat([q * d**-0.5, rel_h, rel_w, q.new_zeros(b, heads, n, spare)], dim=-1)
    wide_k = torch.cat([k, hot.expand(b, heads, n, -1)], dim=-1)
    if q.device.type != "cuda" or (q.element_size() == 2 and wide_q.shape[-1] <= _FLASH_WIDTH):
        v = F.pad(v, (0, h + w + spare))  # else narrow values are taken, which saves memory
    return F.scaled_dot_product_attention(wide_q, wide_k, v, scale=1.0)[..., :d]


def _folded_in_groups(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """:func:`_folded`, some heads at a time."""
    some = max(1, q.shape[1] // _HEAD_GROUPS)
    parts = zip(q.split(some, dim=1), k.split(some, dim=1), v.split(some, dim=1), strict=True)
    return torch.cat([_folded(a, b, c, rows, columns) for a, b, c in parts], dim=1)


def _written_out(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The formula in plain operations, one head at a time: what an exporter records."""
    grid, found = q.view(*q.shape[:2], rows.shape[0], columns.shape[0], -1), []  # (B, heads, h, w, d)
    for i in range(q.shape[1]):
        rel_h = torch.einsum("nhwd,hkd->nhwk", grid[:, i], rows)  # (B, h, w, h)
        rel_w = torch.einsum("nhwd,wkd->nhwk", grid[:, i], columns)  # (B, h, w, w)
        bias = rel_h[..., None] + rel_w[..., None, :]  # (B, h, w, h, w)
        scores = q[:, i] @ k[:, i].transpose(-2, -1) * q.shape[-1] ** -0.5
        scores = scores + bias.flatten(3).flatten(1, 2)  # (B, h, w, h, w) -> (B, N, N)
        found.append(scores.softmax(-1) @ v[:, i])
    return torch.stack(found, dim=1)


def _blocks(heads: int, h: int, w: int) -> Iterator[tuple[slice, slice]]:
    """Slices of ``heads`` (B * heads) and of query rows: ``_BLOCK`` scores, or one row, at most."""
    n = h * w
    group = max(1, min(heads, _BLOCK // (n * n)))
    rows = h if group > 1 else max(1, min(h, _BLOCK // (w * n)))
    for first in range(0, heads, group):
        for top in range(0, h, rows):
            yield slice(first, first + group), slice(top, top + rows)


def _positions(q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Position terms (g, m*w, h*w) of queries (g, m, w, d); rows (m, h, d), columns (w, w, d)."""
    g, m, w, d = q.shape
    rel_h = torch.bmm(q.transpose(0, 1).reshape(m, g * w, d), rows.transpose(1, 2))  # (m, g*w, h)
    rel_h = rel_h.view(m, g, w, -1).transpose(0, 1).contiguous()  # (g, m, w, h)
    rel_w = torch.bmm(q.permute(2, 0, 1, 3).reshape(w, g * m, d), columns.transpose(1, 2))  # (w, g*m, w)
    rel_w = rel_w.view(w, g, m, w).permute(1, 2, 0, 3).contiguous()  # (g, m, w, w)
    return (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).view(g, m * w, -1)  # (g, m, w, h, w) before


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention block by block, (B, heads, h*w, d)."""
    h, w, d = len(rows), len(columns), q.shape[-1]
    grid, keys, values = q.reshape(-1, h, w, d), k.reshape(-1, h * w, d), v.reshape(-1, h * w, d)
    out = torch.empty_like(grid)
    for some, lines in _blocks(len(grid), h, w):
        queries = grid[some, lines]
        bias = _positions(queries, rows[lines], columns)
        flat = queries.reshape(len(bias), -1, d)  # (g, m, w, d) -> (g, m*w, d)
        found = F.scaled_dot_product_attention(flat[None], keys[None, some], values[None, some], bias[None])
        out[some, lines] = found[0].reshape(queries.shape)
    return out.view(q.shape)


class _BlockAttention(torch.autograd.Function):
    """:func:`_attend` with gradients, each block's probabilities formed anew."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Attend."""
        ctx.save_for_backward(*tensors)
        return _attend(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and, where they are trained, of the position tables."""
        q, k, v, rows, columns = ctx.saved_tensors
        h, w, d = len(rows), len(columns), q.shape[-1]
        grid, keys, values = q.reshape(-1, h, w, d), k.reshape(-1, h * w, d), v.reshape(-1, h * w, d)
        grads = grad.reshape(-1, h, w, d)
        grad_q, grad_k, grad_v = torch.empty_like(grid), torch.zeros_like(keys), torch.zeros_like(values)
        tables = [torch.zeros_like(t) if ctx.needs_input_grad[3] else None for t in (rows, columns)]
        for some, lines in _blocks(len(grid), h, w):
            block = (grid[some, lines], keys[some], values[some], rows[lines], columns, grads[some, lines])
            found_q, found_k, found_v, of_rows, of_columns = _block_gradients(*block)
            grad_q[some, lines] = found_q
            grad_k[some] += found_k
            grad_v[some] += found_v
            if tables[0] is not None and tables[1] is not None:
                flat_q = grid[some, lines]
                tables[0][lines] += torch.einsum("gmwk,gmwd->mkd", of_rows, flat_q)
                tables[1] += torch.einsum("gmwk,gmwd->wkd", of_columns, flat_q)
        return grad_q.view(q.shape), grad_k.view(k.shape), grad_v.view(v.shape), tables[0], tables[1]


def _block_gradients(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q (g, m, w, d), k and v (g, n, d), position terms (g, m, w, h) and (g, m, w, w)."""
    g, m, w, d = q.shape
    scale = d**-0.5
    flat, out = q.reshape(g, m * w, d), grad.reshape(g, m * w, d)  # (g, m, w, d) -> (g, m*w, d)
    scores = _positions(q, rows, columns).baddbmm_(flat, k.transpose(1, 2), alpha=scale)
    p = scores.softmax(-1)
    grad_v = torch.bmm(p.transpose(1, 2), out)
    by_p = torch.bmm(out, v.transpose(1, 2))
    by_score = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype)
    grad_k = torch.bmm(by_score.transpose(1, 2), flat).mul_(scale)
    grad_q = torch.bmm(by_score, k).mul_(scale).view(g, m, w, d)
    terms = by_score.view(g, m, w, -1, w)  # (g, m*w, h*w) -> (g, m, w, h, w)
    of_rows, of_columns = terms.sum(-1), terms.sum(-2)
    grad_q += torch.einsum("gmwk,mkd->gmwd", of_rows, rows)
    grad_q += torch.einsum("gmwk,wkd->gmwd", of_columns, columns)
    return grad_q, grad_k, grad_v, of_rows, of_columns
