"""Tiles of logits blended to rows, and rows enlarged to the picture's own size; a band at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from semseg_automl.inference.tiling import TilePlan

PIECE = 2**22
"""Numbers in one piece of enlarged rows, at most (one row at least)."""


def blend_rows(
    rows_of_tiles: Iterable[Iterable[Tensor]], plan: TilePlan, weights: Tensor
) -> Iterator[Tensor]:
    """Weighted means of overlapping tiles, handed on as soon as no later tile touches them.

    Parameters
    ----------
    rows_of_tiles : for each row of tiles (``plan.tops``) its tiles from left to right (``plan.lefts``),
        each (K, h, w) float logits.
    plan : where they lie
    weights : (h, w) float, positive

    Yields
    ------
    Tensor
        (K, n, W') float, finished rows of the grid from top to bottom. Only one band of tile height
        is kept.
    """
    height, columns = plan.tile_cells[0], plan.cells[1]
    ends = [below - top for top, below in pairwise((*plan.tops, plan.cells[0]))]
    band = total = None
    for done, tiles in zip(ends, rows_of_tiles, strict=True):
        for left, logits in zip(plan.lefts, tiles, strict=True):
            if band is None or total is None:
                band = logits.new_zeros((logits.shape[0], height, columns))
                weights, total = weights.to(logits.device), logits.new_zeros((height, columns))
            band[:, :, left : left + plan.tile_cells[1]] += logits * weights
            total[:, left : left + plan.tile_cells[1]] += weights
        if band is None or total is None:
            raise RuntimeError("a row without tiles")
        yield band[:, :done] / total[:done]
        band, total = _shifted(band, done), _shifted(total, done)


def enlarge_rows(rows: Iterable[Tensor], plan: TilePlan, *, piece: int | None = None) -> Iterator[Tensor]:
    """Bilinear interpolation (half-pixel centres) from the grid of logits to the picture's own size.

    Parameters
    ----------
    rows : (K, n, W') float, the grid's rows from top to bottom in parts of any height
    plan : sizes
    piece : numbers in one result, at most, unless one row holds more; None: ``PIECE``

    Yields
    ------
    Tensor
        (K, m, W) float, the picture's rows from top to bottom.
    """
    upper, lower, share = _neighbours(plan, 0)
    left, right, across = _neighbours(plan, 1)
    held: Tensor | None = None
    first, y = 0, 0  # grid row that ``held`` begins with; next row of the picture
    for part in rows:
        held = part if held is None else torch.cat([held, part], dim=1)
        until = int(torch.searchsorted(lower, first + held.shape[1]))  # rows whose neighbours are there
        step = max(1, (piece or PIECE) // (held.shape[0] * plan.original[1]))
        for a in range(y, until, step):
            at = slice(a, min(a + step, until))
            found = _between(held, 1, upper[at] - first, lower[at] - first, share[at, None])
            yield _between(found, 2, left, right, across)
        y = until
        drop = min(int(upper[y]) - first, held.shape[1]) if y < len(upper) else held.shape[1]
        held, first = held[:, drop:].clone(), first + drop


def mirror_back(logits: Tensor, length: int, cell: int, axis: int = -1) -> Tensor:
    """Logits of a mirrored tile in the order of the tile that was mirrored.

    Parameters
    ----------
    logits : (..., h, w) float, of a tile whose first ``length`` pixels were mirrored before padding
    length : pixels of picture along ``axis``; where it is a multiple of ``cell``, entries are just
        turned round
    cell : pixels per logit
    axis : -1 (left and right were exchanged) or -2 (top and bottom)

    Returns
    -------
    Tensor
        (..., h, w); entries of padding repeat the nearest one.
    """
    count = logits.shape[axis]
    places = (length / cell - 1 - torch.arange(count, dtype=torch.float64)).clamp(0, count - 1)
    low = places.floor().long()
    share = (places - low).float()
    return _between(
        logits,
        logits.ndim + axis,
        low,
        (low + 1).clamp(max=count - 1),
        share if axis == -1 else share[:, None],
    )


def mean_rows(streams: Sequence[Iterator[Tensor]]) -> Iterator[Tensor]:
    """The mean of several streams of rows, (K, n, W) each, that are cut at different places.

    Yields
    ------
    Tensor
        (K, m, W); of each stream at most one part is held.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    held = [next(stream, None) for stream in streams]
    while all(part is not None for part in held):
        parts = [part for part in held if part is not None]
        step = min(part.shape[1] for part in parts)
        yield torch.stack([part[:, :step] for part in parts]).mean(0)
        held = [
            part[:, step:] if part.shape[1] > step else next(stream, None)
            for part, stream in zip(parts, streams, strict=True)
        ]
    if any(part is not None for part in held):
        raise RuntimeError("streams of rows have different lengths")


def _shifted(band: Tensor, done: int) -> Tensor:
    """Rows from ``done`` on, with as many zero rows below; (..., h, W')."""
    open_ = band[..., done:, :]
    fresh = band.new_zeros((*band.shape[:-2], done, band.shape[-1]))
    return torch.cat([open_, fresh], dim=-2)


def _neighbours(plan: TilePlan, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of an axis: the cells before and after its centre, and the second one's share."""
    length, scaled, cells = plan.original[axis], plan.scaled[axis], plan.cells[axis]
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) * (scaled / length)
    places = (centres / plan.cell - 0.5).clamp(0, cells - 1)
    low = places.floor().long()
    return low, (low + 1).clamp(max=cells - 1), (places - low).float()


def _between(values: Tensor, axis: int, low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """Linear interpolation between two entries of one axis; ``share`` is broadcast to the result."""
    device = values.device
    before = values.index_select(axis, low.to(device))
    after = values.index_select(axis, high.to(device))
    return torch.lerp(before, after, share.to(device, values.dtype))
