"""Prediction at the pictures' own sizes, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from semseg_automl.core.errors import ConfigError, DeviceMemoryError
from semseg_automl.data.labels import LabelMap
from semseg_automl.data.preprocess import MEAN, STD, plan_geometry
from semseg_automl.inference import predict
from semseg_automl.inference.predict import Predictor
from semseg_automl.inference.whole import automatic_batch_size, mean_probabilities, plan_batches
from semseg_automl.models.devices import flushes_denormals

BINARY = LabelMap(problem_type="binary", names=("no", "yes"), values=(0, 255), ignore=None)
THREE = LabelMap(problem_type="multiclass", names=("r", "g", "b"), values=(7, 3, 400), ignore=None)
SIZES = [(48, 64), (64, 48), (30, 64), (48, 64), (100, 130), (1, 1), (7, 300)]


class Brightness(nn.Module):
    """Logits = brightness of each channel, quarter size: what it should find is in the picture."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.seen = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        rgb = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        logits = nn.functional.avg_pool2d(rgb / 25.5 - 5, 4) * self.scale
        return logits[:, : self.outputs]


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.asarray(Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize((w, h)))
        for h, w in SIZES
    ]


def predictor(label_map=THREE, **options):
    torch.manual_seed(0)
    return Predictor(Brightness(label_map.num_outputs), label_map, options.pop("image_size", 64), **options)


@pytest.mark.parametrize("label_map", [BINARY, THREE])
def test_shapes_and_sums(label_map):
    made = predictor(label_map)
    for picture in pictures():
        found = made.probabilities(picture)
        assert found.shape == (label_map.n_classes, *picture.shape[:2]) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
        assert made.mask(picture).shape == picture.shape[:2]


def test_finds_what_is_in_the_picture_in_raw_values():
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, :32, 0], halves[:, 32:, 2] = 255, 255
    found = predictor().mask(halves)
    assert found.dtype == np.uint16 and (found[:, :28] == 7).all() and (found[:, 36:] == 400).all()
    small = predictor(image_size=(32, 96)).mask(halves)
    assert (small != found).mean() < 0.1


def test_mask_agrees_with_probabilities():
    made = predictor()
    picture = pictures()[0]
    np.testing.assert_array_equal(made.mask(picture), THREE.decode(made.probabilities(picture).argmax(0)))


@pytest.mark.parametrize("tta", [False, True])
def test_batches_give_each_picture_its_own_result(tta):
    made, sources = predictor(), pictures()
    alone = [made.probabilities(p, tta=tta) for p in sources]
    for size in (1, 2, 3, "auto"):
        together = dict(made.iter_probabilities(sources, size, tta=tta))
        assert sorted(together) == list(range(len(sources)))
        for i, expected in enumerate(alone):
            np.testing.assert_allclose(together[i], expected, atol=1e-5)


def test_equal_geometries_share_a_batch():
    made = predictor()
    list(made.iter_probabilities([np.zeros((48, 64, 3), np.uint8)] * 5, 2))
    assert [s[0] for s in made.segmenter.seen] == [2, 2, 1]


def test_paths_grey_and_orientation(tmp_path):
    picture = pictures()[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    assert predictor().mask(tmp_path / "turned.png").shape == picture.shape[1::-1]
    assert predictor().mask(Image.fromarray(picture[..., 0])).shape == picture.shape[:2]


def test_tta_is_the_mean_with_the_mirrored_picture():
    made, picture = predictor(BINARY), pictures()[4]
    mirrored = made.probabilities(np.ascontiguousarray(picture[:, ::-1]))[..., ::-1]
    expected = (made.probabilities(picture) + mirrored) / 2
    found = made.probabilities(picture, tta=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(made.probabilities(picture[:, ::-1], tta=True)[..., ::-1], found, atol=1e-6)


def test_denormals_are_flushed_while_predicting_and_not_after(monkeypatch):
    torch.set_flush_denormal(False)
    made, seen = predictor(), []
    made.segmenter.register_forward_hook(lambda *_: seen.append(flushes_denormals()))
    made.mask(pictures()[0])
    assert seen == [True] and not flushes_denormals()


def test_threshold():
    picture = pictures()[0]
    foreground = predictor(BINARY).probabilities(picture)[1]
    for threshold in (None, 0.2, 0.9, float(foreground[0, 0])):
        expected = np.where(foreground >= (0.5 if threshold is None else threshold), 255, 0)
        np.testing.assert_array_equal(predictor(BINARY, threshold=threshold).mask(picture), expected)


def test_iter_masks():
    made, sources = predictor(), pictures()
    for i, mask in made.iter_masks(sources, 2):
        np.testing.assert_array_equal(mask, made.mask(sources[i]))


def test_memory_is_bounded(monkeypatch):
    """At most two batches have been read when the first result is handed out."""
    from semseg_automl.inference import whole

    read, real = [], whole.read_image
    monkeypatch.setattr(whole, "read_image", lambda s: read.append(1) or real(s))
    stream = predictor().iter_probabilities([np.zeros((48, 64, 3), np.uint8)] * 20, 2)
    next(stream)
    assert len(read) <= 4
    stream.close()


def test_short_memory_halves_the_batch(monkeypatch):
    made = predictor()
    real = made.segmenter.forward

    def short(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("too much")
        return real(images)

    monkeypatch.setattr(made.segmenter, "forward", short)
    sources = [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(5)]
    together = dict(made.iter_probabilities(sources, 5))
    assert sorted(s[0] for s in made.segmenter.seen) == [1, 2, 2]
    np.testing.assert_allclose(together[4], made.probabilities(sources[4]), atol=1e-6)


def test_one_picture_too_many_is_told_in_words(monkeypatch):
    made = predictor()

    def short(images):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(made.segmenter, "forward", short)
    with pytest.raises(DeviceMemoryError, match="one picture of 64 x 64 pixels on cpu") as raised:
        made.probabilities(np.zeros((64, 64, 3), np.uint8))
    assert isinstance(raised.value, MemoryError)


def test_a_picture_that_a_gpu_cannot_hold_is_enlarged_on_the_cpu(monkeypatch):
    made, picture = predictor(), pictures()[4]
    expected, tried = made.probabilities(picture), []

    def mean(logits, *rest):
        tried.append(len(logits))
        if len(tried) == 1:
            raise torch.OutOfMemoryError("too much")
        return mean_probabilities(logits, *rest)

    monkeypatch.setattr(predict, "mean_probabilities", mean)
    with pytest.raises(torch.OutOfMemoryError):  # there it is of no use
        made.probabilities(picture)
    tried.clear()
    made._logits = lambda images: made.segmenter(images)
    made.device = torch.device("meta")
    np.testing.assert_array_equal(made.probabilities(picture), expected)
    assert tried == [1, 1]


def test_no_pictures_and_wrong_batch_size():
    assert list(predictor().iter_probabilities([])) == []
    for size in (0, -1, "many", 2.5):
        with pytest.raises(ConfigError, match="batch_size"):
            list(predictor().iter_probabilities(pictures(), size))


def test_plan_keeps_every_picture_once():
    geometries = {i: (plan_geometry(s, 64),) for i, s in enumerate(SIZES)}
    batches = plan_batches(geometries, 2)
    assert sorted(i for b in batches for i in b) == list(range(len(SIZES)))
    assert all(len({geometries[i][0].padded for i in b}) == 1 and len(b) <= 2 for b in batches)
    assert [automatic_batch_size((512, 512), d) for d in ("cpu", "cuda", "xpu")] == [4, 32, 4]
    assert automatic_batch_size((4096, 4096)) == 1
