"""Test-time views: names, and the mean over flips and scales written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference.blending import mean_rows
from semseg_automl.inference.predict import Predictor
from semseg_automl.inference.tiling import TileRule, plan_tiles
from semseg_automl.inference.views import NAMED, Views, scaled_size, turned
from semseg_automl.inference.whole import automatic_batch_size

THREE = LabelMap(problem_type="multiclass", names=("r", "g", "b"), values=(0, 1, 2), ignore=None)
FOUR = ("none", "horizontal", "vertical", "both")


class Lopsided(nn.Module):
    """Convolutions that tell left from right and top from bottom."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 8, 4, padding=2), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1)
        )

    def forward(self, images):
        return 3 * self.layers(images)


def predictor(image_size=64, **options):
    return Predictor(Lopsided(), THREE, image_size, **options)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_what_tta_may_be():
    assert Views.of(None) == Views.of(False) == Views() and len(Views()) == 1
    assert Views.of(True) == NAMED["mirror"] and len(NAMED["flips_and_scales"]) == 12
    assert Views.of({"flips": "both", "scales": 2}) == Views(flips=("both",), scales=(2.0,))
    assert Views.of(NAMED["flips"]) is NAMED["flips"]


@pytest.mark.parametrize(
    "wrong",
    [
        "mirrored",
        3,
        {"flip": ["none"]},
        {"flips": []},
        {"flips": ["none", "none"]},
        {"flips": ["sideways"]},
        {"scales": []},
        {"scales": [0]},
        {"scales": [1, 1]},
        {"scales": ["1"]},
    ],
)
def test_anything_else_is_refused(wrong):
    with pytest.raises(ConfigError):
        Views.of(wrong)


@pytest.mark.parametrize("image_size", [64, (48, 96)])
@pytest.mark.parametrize("shape", [(40, 60), (101, 37), (1, 200)])
def test_the_mean_over_flips_and_scales_written_out(image_size, shape):
    source, views = picture(*shape), Views(flips=FOUR, scales=(0.75, 1.0, 1.5))
    single = [predictor(scaled_size(image_size, s)) for s in views.scales]
    parts = []
    for made in single:
        for flip, axes in zip(FOUR, [(), (1,), (0,), (0, 1)], strict=True):
            found = made.probabilities(np.ascontiguousarray(np.flip(source, axes)))
            parts.append(np.flip(found, [a + 1 for a in axes]))
            np.testing.assert_array_equal(turned(source, flip), np.flip(source, axes))
    found = predictor(image_size).probabilities(source, tta=views)
    np.testing.assert_allclose(found, np.mean(parts, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_a_picture_does_not_depend_on_its_batch():
    sources = [picture(40, 60, 1), picture(60, 40, 2), picture(41, 60, 3), picture(40, 60, 4)]
    made, views = predictor(), NAMED["flips_and_scales"]
    together = dict(made.iter_probabilities(sources, 3, tta=views))
    for i, source in enumerate(sources):
        np.testing.assert_allclose(together[i], made.probabilities(source, tta=views), atol=1e-5)


def test_tiles_of_turned_pictures():
    """Where tiles and picture are symmetric, predicting the turned picture is turning the prediction."""
    made = predictor(trained=PictureSizes(median=(64, 64), longest=64))
    source, rule = picture(160, 256), TileRule.of(64, 0.5)
    found = made.probabilities(source, tta=NAMED["flips"], tile=rule)
    for flip, axes in (("horizontal", (2,)), ("vertical", (1,)), ("both", (1, 2))):
        other = made.probabilities(turned(source, flip), tta=NAMED["flips"], tile=rule)
        np.testing.assert_allclose(np.flip(other, axes), found, atol=1e-4)
    assert np.abs(found - made.probabilities(source, tile=rule)).max() > 0.01


def test_tiles_at_scales_are_the_mean_of_the_scales():
    known = PictureSizes(median=(64, 64), longest=64)
    source, rule = picture(150, 210), TileRule.of("auto", 0.25)
    made = predictor(trained=known)
    views = Views(scales=(0.5, 1.0, 2.0))
    each = [made.probabilities(source, tta=Views(scales=(s,)), tile=rule) for s in views.scales]
    found = made.probabilities(source, tta=views, tile=rule)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)
    np.testing.assert_array_equal(each[1], made.probabilities(source, tile=rule))
    np.testing.assert_array_equal(made.mask(source, tta=views, tile=rule), found.argmax(0))
    plans = [plan_tiles((150, 210), 64, rule, known, zoom=s) for s in views.scales]
    assert [p.scaled for p in plans] == [(75, 105), (150, 210), (300, 420)]
    assert len({p.tile for p in plans}) == 1


def test_streams_of_rows_that_are_cut_differently():
    rows = torch.arange(24.0).reshape(1, 12, 2)
    cuts = [iter(rows.split([5, 7], 1)), iter((3 * rows).split([1, 2, 9], 1)), iter([2 * rows])]
    parts = list(mean_rows(cuts))
    assert [p.shape[1] for p in parts] == [1, 2, 2, 7]
    torch.testing.assert_close(torch.cat(parts, 1), 2 * rows)
    with pytest.raises(RuntimeError, match="different lengths"):
        list(mean_rows([iter([rows]), iter([rows[:, :5]])]))


def test_more_views_smaller_batches():
    assert [automatic_batch_size((512, 512), flips=n) for n in (1, 2, 4)] == [4, 4, 2]
