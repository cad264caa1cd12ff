"""Which pictures are cut into tiles, at which scale, where the tiles lie and how they are weighed; pure.

Lengths of tiles are counted in pixels of the scaled picture, places in cells: one cell is one
logit of the network, ``CELL`` pixels wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import ConfigError
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.preprocess import Size

AUTO = "auto"
LARGER = 2.0
"""A picture is much larger than the training pictures if its long side is more than this times theirs."""
OVERLAP = 0.25
CELL = 4
"""Pixels of the network's input per logit."""
SIGMA, FLOOR = 0.125, 1e-3
"""Standard deviation of the Gaussian window as a share of the tile's side, and its least weight."""


@dataclass(frozen=True, kw_only=True)
class TileRule:
    """What the user asked for: ``side`` None (whole pictures), "auto" or (h, w); ``overlap`` in [0, 1)."""

    side: Size | str | None = None
    overlap: float = OVERLAP

    @classmethod
    def of(cls, tile: Any, overlap: Any = OVERLAP) -> TileRule:
        """Check the arguments ``tile`` and ``tile_overlap`` of the estimator.

        Raises
        ------
        ConfigError
            ``tile`` is not "auto", None, a side or (h, w) of at least 1 pixel; ``overlap`` is not
            in [0, 1).
        """
        if not isinstance(overlap, Real) or isinstance(overlap, bool) or not 0 <= float(overlap) < 1:
            raise ConfigError(f"tile_overlap={overlap!r} must be a number from 0 to below 1, such as 0.25.")
        if tile is None or tile is False:
            return cls(overlap=float(overlap))
        if isinstance(tile, str) and tile == AUTO:
            return cls(side=AUTO, overlap=float(overlap))
        sides = tuple(tile) if isinstance(tile, tuple | list) else (tile, tile)
        right = all(isinstance(s, Integral) and not isinstance(s, bool) and int(s) >= 1 for s in sides)
        if len(sides) != 2 or not right:
            raise ConfigError(
                f"tile={tile!r} must be 'auto', None (pictures are seen whole), a side in pixels or (h, w)."
            )
        return cls(side=(int(sides[0]), int(sides[1])), overlap=float(overlap))


WHOLE = TileRule()


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """Where the tiles of one picture lie.

    Attributes
    ----------
    original, scaled : (H, W) of the picture as stored, and of the scaled picture that is cut.
    tile : (h, w) of every tile in scaled pixels, multiples of the network's stride.
    cells : (H', W') of the grid of logits that the tiles cover.
    tops, lefts : first row (column) of each row (column) of tiles, in cells, ascending.
    cell : pixels per cell.
    """

    original: Size
    scaled: Size
    tile: Size
    cells: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    cell: int = CELL

    @property
    def tile_cells(self) -> Size:
        """(h, w) of every tile in cells."""
        return self.tile[0] // self.cell, self.tile[1] // self.cell


def plan_tiles(
    size: Size,
    image_size: ImageSize,
    rule: TileRule,
    trained: PictureSizes | None = None,
    *,
    multiple: int = 32,
    cell: int = CELL,
    zoom: float = 1.0,
) -> TilePlan | None:
    """Decide how one picture is seen; None: whole, scaled to the model's size.

    "auto" cuts a picture only where its long side is more than ``LARGER`` times the largest
    training picture's: it is scaled as the median training picture was, and the tiles have the
    model's size. A model that does not know its training pictures sees every picture whole.

    A side in pixels cuts the picture after scaling: as the median training picture where it is
    much larger than the training pictures, else to the model's size, as a whole picture is. A
    model that does not know its training pictures is taken to have seen pictures of its own size.

    Parameters
    ----------
    size : (H, W) of the picture
    image_size : the model's size: long side, or (H, W)
    rule : what was asked for
    trained : sizes of the training pictures, None if unknown
    multiple : tiles are rounded up to this; a multiple of ``cell``
    cell : pixels per logit
    zoom : factor on the scale; whether the picture is cut does not depend on it, nor does the tiles' size

    Returns
    -------
    TilePlan or None
    """
    box = _box(image_size)
    if rule.side is None or (rule.side == AUTO and trained is None):
        return None
    known = trained or PictureSizes(median=box, longest=max(box))
    large = max(size) > LARGER * known.longest
    if rule.side == AUTO and not large:
        return None
    tile = box if isinstance(rule.side, str) else rule.side
    scale = _fit(known.median, box) if large else _fit(size, box)
    scaled = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    if not large and all(s <= t for s, t in zip(scaled, tile, strict=True)):
        return None  # the one tile is the whole picture
    scaled = max(1, round(size[0] * scale * zoom)), max(1, round(size[1] * scale * zoom))
    axes = [_axis(n, t, rule.overlap, multiple, cell) for n, t in zip(scaled, tile, strict=True)]
    (height, rows, tops), (width, columns, lefts) = axes
    return TilePlan(
        original=(size[0], size[1]),
        scaled=scaled,
        tile=(height, width),
        cells=(rows, columns),
        tops=tops,
        lefts=lefts,
        cell=cell,
    )


def describe_tiles(rule: TileRule, plans: Sequence[TilePlan], count: int) -> str:
    """A sentence on ``plans`` (at least one) among ``count`` pictures."""
    why = f"over {LARGER:g} times as long as any training picture" if rule.side == AUTO else "as asked"
    (height, width), scaled, tile = plans[0].original, plans[0].scaled, plans[0].tile
    return (
        f"{len(plans)} of {count} pictures are predicted in tiles, {why}; the first: {height} x {width} "
        f"pixels, scaled to {scaled[0]} x {scaled[1]}, {len(plans[0].tops) * len(plans[0].lefts)} tiles of "
        f"{tile[0]} x {tile[1]}, overlap {100 * rule.overlap:g} %."
    )


def starts(length: int, tile: int, overlap: float) -> tuple[int, ...]:
    """First cells of the tiles along one axis: ``tile * (1 - overlap)`` apart, the last shifted to fit.

    A tile as long as the axis or longer gives (0,). Neighbours are at least one cell apart.
    """
    if tile >= length:
        return (0,)
    step = max(1, int(tile * (1 - overlap)))
    count = math.ceil((length - tile) / step) + 1
    return tuple(min(i * step, length - tile) for i in range(count))


def window(size: Size, *, mode: str = "gaussian") -> Tensor:
    """Weights of a tile's logits when tiles are blended.

    Parameters
    ----------
    size : (h, w) in cells
    mode : "gaussian" or "constant"
        Gaussian: exp(-x^2 / (2 s^2)) along each axis, x from the tile's centre, s = ``SIGMA`` times
        the side; the product is at least ``FLOOR`` (1 in the middle), so that no place is without
        weight. Isensee et al., nnU-Net (Nature Methods 2021), weigh patches so.

    Returns
    -------
    Tensor
        (h, w) float32 in [FLOOR, 1].
    """
    if mode == "constant":
        return torch.ones(size)
    if mode != "gaussian":
        raise ConfigError(f"mode={mode!r} must be 'gaussian' or 'constant'.")
    rows, columns = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size)
    vertical = torch.exp(-(rows**2) / (2 * (SIGMA * size[0]) ** 2))
    horizontal = torch.exp(-(columns**2) / (2 * (SIGMA * size[1]) ** 2))
    return (vertical[:, None] * horizontal[None]).clamp_min(FLOOR)  # (h, 1) x (1, w) -> (h, w)


def _axis(
    length: int, tile: int, overlap: float, multiple: int, cell: int
) -> tuple[int, int, tuple[int, ...]]:
    """(tile in pixels, cells of the grid, first cells) along one axis of the scaled picture."""
    tile = _up(tile, multiple)
    if length <= tile:  # one tile, padded as a whole picture is
        tile = _up(length, multiple)
        return tile, tile // cell, (0,)
    cells = -(-length // cell)
    return tile, cells, starts(cells, tile // cell, overlap)


def _box(image_size: ImageSize) -> Size:
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def _fit(size: Size, box: Size) -> float:
    """Scale with which a picture is fitted into the model's size."""
    return min(box[0] / size[0], box[1] / size[1])


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
