"""Which pictures are cut, and where the tiles lie."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.inference.tiling import FLOOR, WHOLE, TileRule, describe_tiles, plan_tiles, starts, window

AUTO = TileRule.of("auto")
KNOWN = PictureSizes(median=(300, 400), longest=500)


@pytest.mark.parametrize("seed", range(30))
def test_tiles_cover_every_cell_and_stay_inside(seed):
    rng = random.Random(seed)
    size = rng.randint(1, 3000), rng.randint(1, 3000)
    image_size = rng.choice([64, 96, (64, 160)])
    tile = rng.randint(1, 300), rng.randint(1, 300)
    rule = TileRule.of(tile, rng.choice([0.0, 0.25, 0.5, rng.random() * 0.95]))
    known = rng.choice([None, PictureSizes(median=(90, 110), longest=rng.randint(110, 4000))])
    plan = plan_tiles(size, image_size, rule, known)
    if plan is None:
        return
    weights = torch.zeros(plan.cells)
    h, w = plan.tile_cells
    for top in plan.tops:
        for left in plan.lefts:
            assert top + h <= plan.cells[0] and left + w <= plan.cells[1]
            weights[top : top + h, left : left + w] += window((h, w))
    assert float(weights.min()) >= FLOOR
    assert plan.tops[0] == plan.lefts[0] == 0 and all(t % 32 == 0 for t in plan.tile)
    for cells, scaled, tile_side in zip(plan.cells, plan.scaled, plan.tile, strict=True):
        assert scaled <= cells * plan.cell < scaled + (32 if tile_side >= scaled else plan.cell)


def test_starts():
    assert starts(10, 4, 0.25) == (0, 3, 6)
    assert starts(11, 4, 0.25) == (0, 3, 6, 7)  # the last is shifted to fit
    assert starts(4, 4, 0.5) == starts(3, 4, 0.5) == (0,)
    assert starts(6, 4, 0.999) == (0, 1, 2)  # one cell apart at least
    assert starts(8, 4, 0) == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 200)])
def test_window_is_positive_symmetric_and_largest_in_the_middle(size):
    weights = window(size)
    assert weights.shape == size and float(weights.min()) >= FLOOR and float(weights.max()) <= 1
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert weights[size[0] // 2, size[1] // 2] == weights.max()
    assert (window(size, mode="constant") == 1).all()
    with pytest.raises(ConfigError, match="mode"):
        window(size, mode="round")


def test_what_is_asked_for():
    assert TileRule.of(None) == TileRule.of(False) == WHOLE
    assert TileRule.of(np.int64(512), 0.5) == TileRule(side=(512, 512), overlap=0.5)
    assert TileRule.of([256, 512]).side == (256, 512)


@pytest.mark.parametrize(
    "tile", ["whole", "512", True, 0, -1, 512.0, (1,), (1, 2, 3), (0, 5), ("a", 3), {}, np.nan]
)
def test_wrong_tiles(tile):
    with pytest.raises(ConfigError, match=r"tile=.*must be 'auto', None"):
        TileRule.of(tile)


@pytest.mark.parametrize("overlap", [-0.1, 1, 1.5, float("nan"), "much", None, True])
def test_wrong_overlaps(overlap):
    with pytest.raises(ConfigError, match=r"tile_overlap=.*0.25"):
        TileRule.of("auto", overlap)


def test_auto_cuts_only_what_is_much_larger_than_the_training_pictures():
    for size in [(300, 400), (500, 375), (1000, 1000), (3, 1000)]:
        assert plan_tiles(size, 512, AUTO, KNOWN) is None
    plan = plan_tiles((1001, 20), 512, AUTO, KNOWN)
    assert plan.scaled == (1281, 26) and plan.tile == (512, 32)  # 512 / 400, as in training
    assert plan.lefts == (0,) and len(plan.tops) == 4
    assert "1 of 9 pictures are predicted in tiles, over 2 times" in describe_tiles(AUTO, [plan], 9)


def test_auto_needs_the_sizes_of_the_training_pictures():
    assert plan_tiles((20_000, 20_000), 512, AUTO, None) is None
    assert plan_tiles((20_000, 20_000), 512, WHOLE, KNOWN) is None


def test_a_side_cuts_any_picture_at_the_scale_in_which_it_would_be_seen():
    rule = TileRule.of(200, 0.5)
    plan = plan_tiles((600, 800), 512, rule, KNOWN)
    assert plan.scaled == (384, 512) and plan.tile == (224, 224)  # whole: 512 / 800; rounded up to 32
    assert plan_tiles((6000, 8000), 512, rule, KNOWN).scaled == (7680, 10240)  # as in training: 512 / 400
    assert plan_tiles((600, 800), 512, TileRule.of(512), KNOWN) is None  # one tile is the whole picture
    assert "as asked" in describe_tiles(rule, [plan], 1)


def test_a_side_without_knowledge_takes_training_pictures_of_the_models_size():
    assert plan_tiles((3000, 2000), 512, TileRule.of(512), None).scaled == (3000, 2000)
    assert plan_tiles((3000, 2000), (256, 512), TileRule.of(512), None).scaled == (3000, 2000)
    assert plan_tiles((800, 600), 512, TileRule.of(128), None).scaled == (512, 384)


def test_model_size_of_two_sides():
    plan = plan_tiles((2000, 3000), (300, 500), AUTO, KNOWN)
    assert plan.tile == (320, 512) and plan.scaled == (2000, 3000)  # 300 x 400 fits in 300 x 500 as it is
