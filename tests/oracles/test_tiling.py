"""Blended tiles against MONAI's sliding window, and enlarged rows against torch's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from semseg_automl.data.windows import PictureWindows
from semseg_automl.inference.blending import blend_rows, enlarge_rows
from semseg_automl.inference.tiling import TilePlan, starts, window

inferers = pytest.importorskip("monai.inferers", reason="MONAI is the oracle of tiling")
CASES = [  # grid, tile, overlap
    ((50, 70), (16, 16), 0.25),
    ((40, 33), (24, 16), 0.5),
    ((64, 64), (32, 32), 0.0),
    ((31, 97), (16, 20), 0.8),
    ((33, 18), (32, 16), 0.97),
    ((16, 90), (16, 16), 0.25),
]


def plan(grid: tuple[int, int], tile: tuple[int, int], overlap: float) -> TilePlan:
    tops, lefts = (starts(n, t, overlap) for n, t in zip(grid, tile, strict=True))
    return TilePlan(original=grid, scaled=grid, tile=tile, cells=grid, tops=tops, lefts=lefts, cell=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2))


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize(("grid", "tile", "overlap"), CASES)
@torch.inference_mode()
def test_equals_monai(grid, tile, overlap, mode) -> None:
    """The edges of each tile see zero padding, so that every tile and every weight counts."""
    net, image = network(), torch.randn(1, 3, *grid, generator=torch.Generator().manual_seed(1))
    expected = inferers.sliding_window_inference(image, tile, 3, net, overlap=overlap, mode=mode)[0]
    where = plan(grid, tile, overlap)
    h, w = tile
    rows = ((net(image[..., y : y + h, x : x + w])[0] for x in where.lefts) for y in where.tops)
    found = torch.cat(list(blend_rows(rows, where, window(tile, mode=mode))), dim=1)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5
    if len(where.tops) * len(where.lefts) > 1:
        assert float((net(image)[0] - expected).abs().max()) > 1e-2  # the tiles can be told apart


@pytest.mark.parametrize("size", [(40, 56), (33, 50), (80, 112), (9, 300), (3, 5), (41, 57)])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_enlarged_rows_equal_interpolation(size, parts) -> None:
    """Where the grid covers the picture exactly, the rows are torch's bilinear interpolation."""
    grid = torch.randn(2, 10, 14, generator=torch.Generator().manual_seed(2))
    where = TilePlan(original=size, scaled=(40, 56), tile=(40, 56), cells=(10, 14), tops=(0,), lefts=(0,))
    expected = nn.functional.interpolate(grid[None], size=size, mode="bilinear", align_corners=False)[0]
    for piece in (1, 500, 10**9):
        found = torch.cat(list(enlarge_rows(grid.tensor_split(parts, dim=1), where, piece=piece)), dim=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scaled", [(60, 41), (23, 17), (260, 190), (7, 300)])
def test_windows_equal_the_whole_scaled_picture(scaled) -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (131, 97, 3), np.uint8)
    whole = np.asarray(Image.fromarray(picture).resize(scaled[::-1], Image.Resampling.BILINEAR)).astype(int)
    windows = PictureWindows(picture)
    for _ in range(20):
        rows, columns = (tuple(sorted(rng.choice(n + 1, 2, replace=False).tolist())) for n in scaled)
        found = windows.window(scaled, rows, columns).astype(int)
        expected = whole[slice(*rows), slice(*columns)]
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1
