"""Pictures in tiles: the same result as with everything at once, in a bounded part of the memory."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.images import IntensityScaling
from semseg_automl.data.labels import LabelMap
from semseg_automl.data.preprocess import normalise, resize_rgb
from semseg_automl.inference import blending
from semseg_automl.inference.blending import mirror_back
from semseg_automl.inference.predict import Predictor
from semseg_automl.inference.tiling import TileRule, plan_tiles, window

BINARY = LabelMap(problem_type="binary", names=("no", "yes"), values=(0, 255), ignore=None)
THREE = LabelMap(problem_type="multiclass", names=("r", "g", "b"), values=(7, 3, 400), ignore=None)
COLOURS = LabelMap(
    problem_type="multiclass",
    names=("r", "g", "b"),
    values=((255, 0, 0), (0, 255, 0), (9, 9, 9)),
    ignore=None,
)
KNOWN = PictureSizes(median=(48, 64), longest=64)
AUTO = TileRule.of("auto")


class Network(nn.Module):
    """Convolutions to quarter size that see the edges of their tile."""

    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 8, 4, padding=2), nn.ReLU(), nn.Conv2d(6, outputs, 3, padding=1)
        )

    def forward(self, images):
        return 3 * self.layers(images)


def predictor(label_map=THREE, **options):
    options = {"trained": KNOWN, **options}
    return Predictor(Network(label_map.num_outputs), label_map, options.pop("image_size", 64), **options)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@torch.inference_mode()
def all_at_once(made, source, rule):
    """The formula written out: whole arrays of weighted logits, torch's interpolation, softmax."""
    plan = plan_tiles(source.shape[:2], made.image_size, rule, made.trained)
    scaled = resize_rgb(source, plan.scaled)
    h, w = plan.tile_cells
    total = torch.zeros(plan.cells)
    logits = torch.zeros((made.label_map.num_outputs, *plan.cells))
    for top in plan.tops:
        for left in plan.lefts:
            part = scaled[top * 4 : (top + h) * 4, left * 4 : (left + w) * 4]
            found = made.segmenter(normalise(part, plan.tile)[None])[0]
            logits[:, top : top + h, left : left + w] += found * window((h, w))
            total[top : top + h, left : left + w] += window((h, w))
    return logits / total, plan


@pytest.mark.parametrize("seed", range(6))
def test_probabilities_equal_those_of_everything_at_once(seed):
    """At sizes where grid and picture cover each other, so that torch's interpolation applies."""
    rng = random.Random(seed)
    size = 4 * rng.randint(33, 90), 4 * rng.randint(33, 90)
    rule = TileRule.of((rng.choice([32, 64]), rng.choice([32, 64, 96])), rng.random() * 0.8)
    made = predictor(trained=PictureSizes(median=(64, 48), longest=64))  # scale 1
    source = picture(*size, seed)
    logits, plan = all_at_once(made, source, rule)
    assert plan.scaled == size == tuple(4 * c for c in plan.cells)
    expected = nn.functional.interpolate(logits[None], size=size, mode="bilinear")[0].softmax(0).numpy()
    np.testing.assert_allclose(made.probabilities(source, tile=rule), expected, atol=1e-5)


@pytest.mark.parametrize("label_map", [BINARY, THREE, COLOURS])
@pytest.mark.parametrize("tta", [False, True])
def test_streamed_masks_equal_those_of_the_probabilities(label_map, tta, monkeypatch):
    monkeypatch.setattr(blending, "PIECE", 1000)  # a few rows at a time
    made, rng = predictor(label_map), random.Random(5)
    for seed in range(6):
        source = picture(rng.randint(1, 300), rng.randint(129, 300), seed)
        rule = TileRule.of(rng.choice([20, 64, (32, 96), "auto"]), rng.random() * 0.7)
        found = made.probabilities(source, tta=tta, tile=rule)
        assert found.shape == (label_map.n_classes, *source.shape[:2]) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
        mask = made.mask(source, tta=tta, tile=rule)
        np.testing.assert_array_equal(mask, made.to_mask(found))
        assert mask.dtype == made.to_mask(found).dtype


def test_pictures_of_the_training_size_are_seen_as_before():
    made = predictor()
    for source in (picture(48, 64), picture(64, 20), picture(128, 100)):
        np.testing.assert_array_equal(made.probabilities(source, tile=AUTO), made.probabilities(source))
    large = picture(300, 300)
    assert np.abs(made.probabilities(large, tile=AUTO) - made.probabilities(large)).max() > 0.01
    unknown = predictor(trained=None)
    np.testing.assert_array_equal(unknown.probabilities(large, tile=AUTO), made.probabilities(large))


def test_mixed_pictures_come_back_once_each_and_batches_do_not_matter():
    made = predictor()
    sources = [picture(200, 130, 1), picture(48, 64, 2), picture(5, 400, 3), picture(48, 64, 4)]
    alone = [made.probabilities(s, tile=AUTO) for s in sources]
    for size in (1, 3, "auto"):
        together = dict(made.iter_probabilities(sources, size, tile=AUTO))
        assert sorted(together) == [0, 1, 2, 3]
        for i, expected in enumerate(alone):
            np.testing.assert_allclose(together[i], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 5000), (4000, 2), (129, 129), (1, 129)])
@pytest.mark.parametrize("tta", [False, True])
def test_extreme_shapes(size, tta):
    found = predictor().probabilities(picture(*size), tta=tta, tile=AUTO)
    assert found.shape == (3, *size) and np.isfinite(found).all()


def test_one_tile_across_is_what_the_picture_in_one_tile_is():
    """A strip whose middle no tile border comes near equals the prediction of its surroundings."""
    made, source = predictor(trained=PictureSizes(median=(64, 64), longest=64)), picture(256, 32)
    long = made.probabilities(source, tile=TileRule.of(256))
    short = made.probabilities(source, tile=TileRule.of(96, 0.5))
    np.testing.assert_allclose(short[:, :40], long[:, :40], atol=1e-5)


def test_tta_is_the_mean_with_the_mirrored_picture():
    made, source = predictor(trained=PictureSizes(median=(64, 64), longest=64)), picture(200, 256)
    rule = TileRule.of(64, 0.5)  # 64 cells across, tiles every 8: they lie mirrored too
    mirrored = made.probabilities(np.ascontiguousarray(source[:, ::-1]), tile=rule)[..., ::-1]
    expected = (made.probabilities(source, tile=rule) + mirrored) / 2
    np.testing.assert_allclose(made.probabilities(source, tta=True, tile=rule), expected, atol=1e-5)


def test_mirror_back():
    straight = torch.arange(8.0) * 4 + 2  # centres of the cells
    mirrored = 32 - straight
    torch.testing.assert_close(mirror_back(mirrored, 32, 4), straight)
    part = mirror_back(21 - straight, 21, 4)  # 21 pixels of picture, the rest is padding
    torch.testing.assert_close(part[1:5], straight[1:5])


def test_deep_pictures_are_scaled_as_a_whole():
    deep = picture(200, 150).astype(np.uint16) * 200
    made = predictor(scaling=IntensityScaling(0, 51_000))
    expected = made.probabilities((deep // 200).astype(np.uint8), tile=AUTO)
    np.testing.assert_allclose(made.probabilities(deep, tile=AUTO), expected, atol=1e-6)
    floats = picture(200, 150)[..., 0] / np.float32(400)
    floats[150:] += 1  # dark tiles, taken alone, would lie within 0..1
    found = predictor().probabilities(floats, tile=AUTO)
    np.testing.assert_array_equal(
        found, predictor().probabilities(np.rint(floats).astype(np.uint8), tile=AUTO)
    )


def test_a_tiff_that_is_mapped_gives_what_its_pixels_give(tmp_path, monkeypatch):
    from semseg_automl.data import windows

    source = picture(200, 150)
    Image.fromarray(source).save(tmp_path / "a.tif")
    monkeypatch.setattr(windows, "read_image", lambda _: pytest.fail("decoded whole"))
    found = predictor().mask(tmp_path / "a.tif", tile=AUTO)
    monkeypatch.undo()
    np.testing.assert_array_equal(found, predictor().mask(source, tile=AUTO))


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="batch_size"):
        list(predictor().iter_masks([picture(9, 9)], 0))
    wide = nn.Conv2d(3, 3, 3, padding=1)
    made = Predictor(wide, THREE, 64, trained=KNOWN)
    with pytest.raises(ConfigError, match="logits"):
        made.mask(picture(200, 200), tile=AUTO)


def test_a_file_that_changed_since_its_header_was_read(tmp_path, monkeypatch):
    from semseg_automl.inference import predict

    monkeypatch.setattr(predict, "image_size", lambda _: (300, 200))
    with pytest.raises(DataError, match="no longer"):
        predictor().mask(picture(200, 200), tile=AUTO)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation answers."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_memory_does_not_grow_with_the_height(monkeypatch):
    """Neither torch nor numpy ever holds the picture's probabilities, nor the scaled picture."""
    monkeypatch.setattr(blending, "PIECE", 20_000)
    made = predictor(image_size=64, trained=PictureSizes(median=(24, 32), longest=32))  # enlarged twice
    largest, peaks = [], []
    for height in (600, 1200):
        source = picture(height, 100)
        with Largest() as seen:
            made.mask(source, tile=AUTO)
        largest.append(seen.numbers)
        tracemalloc.start()
        mask = made.mask(source, tile=AUTO)
        peaks.append(tracemalloc.get_traced_memory()[1] - mask.nbytes)
        tracemalloc.stop()
    assert largest[0] == largest[1] < 3 * 1200 * 100 / 4
    assert peaks[1] < 1.2 * peaks[0] + 50_000 and peaks[1] < 4 * 3 * 1200 * 100 / 2
