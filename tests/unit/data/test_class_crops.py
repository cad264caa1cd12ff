"""Crops around classes: what they hold, how often, and that crops laid anywhere stay as they were."""

from __future__ import annotations

import numpy as np
import pytest

from semseg_automl.data.augment import PRESETS, random_window
from semseg_automl.data.class_crops import ClassCrops, place_of
from semseg_automl.data.label_map import IGNORE

ALWAYS = ClassCrops(share=1.0, weights=(1e-9, 1.0, 1.0))


def rare_mask(height: int = 400, width: int = 500) -> np.ndarray:
    """One pixel of class 1 in a corner, a small block of class 2, the rest class 0; a stripe is ignored."""
    mask = np.zeros((height, width), np.int16)
    mask[:, 200:210] = IGNORE
    mask[0, width - 1], mask[300:310, 100:110] = 1, 2
    return mask


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("size", [(64, 64), (30, 350), (640, 64)])
def test_the_crop_holds_a_pixel_of_the_class_that_was_drawn(factor: float, size: tuple[int, int]) -> None:
    mask = rare_mask()
    image = np.repeat(mask.astype(np.uint8)[..., None], 3, axis=2)
    seen = np.zeros(3)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        _, labels = random_window(image, mask, size, factor, place_of(mask, size, factor, rng, ALWAYS))
        assert labels.shape == size
        seen += [(labels == k).any() for k in range(3)]
    wanted = 50 if factor < 1 else 60  # shrunk, a single pixel may fall between two
    assert seen[1] + seen[2] >= wanted and min(seen[1:]) > 10


def test_the_share_and_the_weights() -> None:
    mask, rng = rare_mask(), np.random.default_rng(0)
    drawn = [ClassCrops(share=0.3, weights=(1.0, 1.0, 3.0)).pixel(mask, rng) for _ in range(3000)]
    aimed = [mask[p] for p in drawn if p is not None]
    assert abs(len(aimed) / 3000 - 0.3) < 0.03
    np.testing.assert_allclose(np.bincount(aimed) / len(aimed), [0.2, 0.2, 0.6], atol=0.06)


def test_a_pixel_may_lie_anywhere_in_its_crop() -> None:
    mask = np.zeros((400, 400), np.int16)
    mask[200, 200] = 1
    rows = []
    for seed in range(300):
        place = place_of(mask, (100, 100), 1.0, np.random.default_rng(seed), ALWAYS)
        rows.append(200 - int(place[0] * 301))
    assert min(rows) >= 0 and max(rows) <= 99 and min(rows) < 8 and max(rows) > 91


def test_without_an_aim_or_with_one_class_crops_lie_anywhere() -> None:
    mask = rare_mask()
    for seed in range(20):
        expected = np.random.default_rng(seed).random(2)
        np.testing.assert_array_equal(place_of(mask, (64, 64), 1.0, np.random.default_rng(seed)), expected)
        one = np.where(mask == IGNORE, IGNORE, 0).astype(np.int16)
        found = place_of(one, (64, 64), 1.0, np.random.default_rng(seed), ALWAYS)
        np.testing.assert_array_equal(found, expected)
    ignored = np.full((50, 50), IGNORE, np.int16)
    assert ALWAYS.pixel(ignored, np.random.default_rng(0)) is None


@pytest.mark.parametrize("name", ["light", "medium", "strong", "aerial"])
def test_recipes_lay_their_crops_around_classes(name: str) -> None:
    mask = rare_mask()
    mask[0, -1], mask[100, 390] = 0, 1  # where a rotated crop has room around it
    image = np.full((*mask.shape, 3), 9, np.uint8)
    held = {True: 0, False: 0}
    for seed in range(100):
        for aimed in held:
            aim = ALWAYS if aimed else None
            _, labels = PRESETS[name](image, mask, np.random.default_rng(seed), crop=(96, 96), aim=aim)
            held[aimed] += bool(((labels == 1) | (labels == 2)).any())
    assert held[True] > 85 and held[True] > 2 * held[False]
