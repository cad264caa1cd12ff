"""What holds for every way of cutting a picture into tiles."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.inference.tiling import TileRule, plan_tiles, starts, window

SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)


@given(length=st.integers(1, 500), tile=st.integers(1, 200), overlap=st.floats(0, 0.99))
def test_tiles_cover_an_axis_without_gaps_and_stay_on_it(length: int, tile: int, overlap: float) -> None:
    found = starts(length, tile, overlap)
    assert list(found) == sorted(set(found)) and found[0] == 0
    covered = {cell for start in found for cell in range(start, min(start + tile, length))}
    assert covered == set(range(length))
    assert len(found) == 1 or found[-1] + tile == length
    wanted = tile - max(1, int(tile * (1 - overlap)))
    assert all(a + tile - b >= wanted for a, b in itertools.pairwise(found))


@given(
    size=SIZES,
    image_size=st.sampled_from([64, 256, 512, (256, 384)]),
    side=st.just("auto") | st.none() | st.tuples(st.integers(1, 800), st.integers(1, 800)),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
    trained=st.none() | st.tuples(SIZES, st.integers(1, 2000)),
)
def test_every_plan_covers_its_picture(
    size: tuple[int, int],
    image_size: int | tuple[int, int],
    side: str | tuple[int, int] | None,
    overlap: float,
    trained: tuple[tuple[int, int], int] | None,
) -> None:
    sizes = None if trained is None else PictureSizes(median=trained[0], longest=max(*trained[0], trained[1]))
    plan = plan_tiles(size, image_size, TileRule(side=side, overlap=overlap), sizes)
    if plan is None:
        return
    assert plan.original == size and side is not None
    for axis in (0, 1):
        tile, cells = plan.tile[axis], plan.cells[axis]
        places = (plan.tops, plan.lefts)[axis]
        assert tile % 32 == 0 and cells * plan.cell >= plan.scaled[axis]
        assert places[0] == 0 and max(places) + plan.tile_cells[axis] >= cells
        assert all(b - a <= plan.tile_cells[axis] for a, b in itertools.pairwise(places))


@given(size=st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_a_window_is_symmetric_and_nowhere_without_weight(size: tuple[int, int]) -> None:
    weights = window(size)
    assert weights.shape == size and 0 < weights.min() <= weights.max() <= 1
    torch.testing.assert_close(weights, weights.flip(0))
    torch.testing.assert_close(weights, weights.flip(1))
