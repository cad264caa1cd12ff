"""One picture in tiles: windows in, rows of probabilities out, a band of the picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.preprocess import normalise
from semseg_automl.data.windows import PictureWindows
from semseg_automl.inference.blending import blend_rows, enlarge_rows, mean_rows, mirror_back
from semseg_automl.inference.tiling import TilePlan, window
from semseg_automl.inference.views import FLIPS, turned
from semseg_automl.models.postprocess import probabilities

Network = Callable[[Tensor], Tensor]


def probability_rows(
    picture: PictureWindows,
    plans: Sequence[TilePlan],
    network: Network,
    *,
    batch_size: int,
    flips: Sequence[str] = ("none",),
) -> Iterator[Tensor]:
    """Class probabilities of a picture in tiles, a few rows at a time.

    Logits are blended on the network's grid, enlarged bilinearly to the picture's own size and then
    turned into probabilities, in the order in which a whole picture's are.

    Parameters
    ----------
    picture : the picture
    plans : where its tiles lie, one plan for each scale
    network : from (B, 3, h, w) normalised images to (B, K, h / cell, w / cell) float logits
    batch_size : tiles per batch
    flips : names in ``views.FLIPS``; the probabilities of tiles turned over so are averaged

    Yields
    ------
    Tensor
        (K, n, W) float, from top to bottom, summing to 1 over K (K = 2 for one logit).

    Raises
    ------
    ConfigError
        The network's logits don't lie ``plan.cell`` pixels apart.
    """
    yield from mean_rows([_rows_at(picture, plan, network, batch_size, flips) for plan in plans])


def _rows_at(
    picture: PictureWindows, plan: TilePlan, network: Network, batch_size: int, flips: Sequence[str]
) -> Iterator[Tensor]:
    """:func:`probability_rows` at one scale."""
    rows = (_tile_row(picture, plan, network, top, batch_size, flips) for top in plan.tops)
    for logits in enlarge_rows(blend_rows(rows, plan, window(plan.tile_cells)), plan):
        found = [probabilities(one) for one in logits.chunk(len(flips))]  # (F*K, n, W) -> F x (K, n, W)
        yield found[0] if len(found) == 1 else sum(found[1:], found[0]) / len(found)


@dataclass(frozen=True, kw_only=True)
class MaskRows:
    """A mask that is decided while it is read: ``size`` (H, W), ``parts`` from top to bottom, once."""

    size: tuple[int, int]
    parts: Iterator[np.ndarray]


def joined(parts: Iterable[np.ndarray], axis: int, length: int) -> np.ndarray:
    """Parts below each other along ``axis`` (0 or 1), ``length`` rows in all, filled as they come."""
    whole: np.ndarray | None = None
    done = 0
    for part in parts:
        if whole is None:
            whole = np.empty((*part.shape[:axis], length, *part.shape[axis + 1 :]), part.dtype)
        rows = slice(done, done + part.shape[axis])
        whole[rows if axis == 0 else (slice(None), rows)] = part
        done = rows.stop
    if whole is None or done != length:
        raise RuntimeError(f"{done} of {length} rows were computed")
    return whole


def _tile_row(
    picture: PictureWindows,
    plan: TilePlan,
    network: Network,
    top: int,
    batch_size: int,
    flips: Sequence[str],
) -> Iterator[Tensor]:
    """(F*K, h, w) logits of a row's tiles from left to right, each flip turned back."""
    for at in range(0, len(plan.lefts), batch_size):
        windows = [_window(picture, plan, top, left) for left in plan.lefts[at : at + batch_size]]
        found = [
            _checked(network(torch.stack([normalise(turned(w, flip), plan.tile) for w in windows])), plan)
            for flip in flips
        ]
        for k, w in enumerate(windows):
            yield torch.cat([_back(f[k], w, plan, flip) for f, flip in zip(found, flips, strict=True)])


def _back(logits: Tensor, tile: np.ndarray, plan: TilePlan, flip: str) -> Tensor:
    """(K, h, w) logits of a tile (h', w', 3) that was turned over, turned back."""
    for axis in FLIPS[flip]:
        logits = mirror_back(logits, tile.shape[:2][axis], plan.cell, axis)
    return logits


def _window(picture: PictureWindows, plan: TilePlan, top: int, left: int) -> np.ndarray:
    """(h, w, 3) uint8 of the scaled picture under one tile, smaller where the tile is padded."""
    spans = []
    for first, length, tile in zip((top, left), plan.scaled, plan.tile, strict=True):
        begin = first * plan.cell
        spans.append((begin, min(begin + tile, length)))
    return picture.window(plan.scaled, *spans)


def _checked(logits: Tensor, plan: TilePlan) -> Tensor:
    if tuple(logits.shape[-2:]) != plan.tile_cells:
        raise ConfigError(
            f"The network gave {tuple(logits.shape[-2:])} logits for tiles of {plan.tile} pixels; tiles need "
            f"one for every {plan.cell} x {plan.cell} pixels. Use tile=None."
        )
    return logits
