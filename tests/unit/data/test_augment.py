"""Augmentation: picture and mask stay together, colours follow torchvision, and it is fast."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.augment import PRESETS, Augment, jitter, resolve_augment
from semseg_automl.data.label_map import IGNORE

RNG = np.random.default_rng(0)


def _coded(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose colour tells its mask: class k has colour 60 + 40 k, in 20-pixel squares."""
    mask = ((np.arange(height)[:, None] // 20 + np.arange(width)[None] // 20) % 3).astype(np.int16)
    return np.repeat((60 + 40 * mask)[..., None], 3, axis=2).astype(np.uint8), mask


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_dtypes_and_inputs_are_kept(name: str) -> None:
    image, mask = _coded()
    before = image.copy(), mask.copy()
    for seed in range(20):
        out, labels = PRESETS[name](image, mask, np.random.default_rng(seed))
        assert out.shape == image.shape and out.dtype == np.uint8 and out.flags.c_contiguous
        assert labels.shape == mask.shape and labels.dtype == np.int16 and labels.flags.c_contiguous
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize("seed", range(30))
def test_picture_and_mask_move_together(seed: int) -> None:
    image, mask = _coded()
    recipe = Augment(horizontal_flip=0.5, vertical_flip=0.5, scale=(0.5, 2.0))
    out, labels = recipe(image, mask, np.random.default_rng(seed))
    told = np.rint((out[..., 1].astype(float) - 60) / 40)
    seen = labels != IGNORE
    assert seen.mean() > 0.2
    assert (told == labels)[seen].mean() > 0.85  # all but smoothed borders


def test_shrinking_pads_with_ignore_and_the_mean_colour() -> None:
    image, mask = _coded()
    out, labels = Augment(scale=(0.5, 0.5001))(image, mask, np.random.default_rng(0))
    assert (labels != IGNORE).sum() == 30 * 40
    assert (out[labels == IGNORE] == np.array([124, 116, 104])).all()


def test_crop_windows() -> None:
    image, mask = _coded()
    for seed in range(20):
        out, labels = PRESETS["medium"](image, mask, np.random.default_rng(seed), crop=(32, 48))
        assert out.shape == (32, 48, 3) and labels.shape == (32, 48) and labels.dtype == np.int16
    out, labels = PRESETS["none"](image, mask, np.random.default_rng(0), crop=(100, 100))
    assert (labels != IGNORE).sum() == 60 * 80


def test_flips_are_flips_and_none_is_identity() -> None:
    image, mask = _coded()
    image[0, 0] = 255
    out, labels = PRESETS["none"](image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(labels, mask)
    out, labels = Augment(horizontal_flip=1.0)(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(out, image[:, ::-1])
    out, labels = Augment(vertical_flip=1.0)(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(labels, mask[::-1])
    counts = [PRESETS["light"](image, mask, np.random.default_rng(s))[0][0, -1, 0] == 255 for s in range(400)]
    assert 0.42 < np.mean(counts) < 0.58


def test_only_strong_flips_vertically() -> None:
    assert [name for name, recipe in PRESETS.items() if recipe.vertical_flip] == ["strong"]


@pytest.mark.parametrize("factors", [(1.2, 1.0, 1.0), (1.0, 0.8, 1.0), (1.0, 1.0, 0.5), (0.9, 1.1, 1.2)])
def test_colour_jitter_against_torchvision(factors: tuple[float, float, float]) -> None:
    image = RNG.integers(70, 170, (40, 50, 3), np.uint8)  # far from clipping, where the order would matter
    theirs = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    steps = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    for step, factor in zip(steps, factors, strict=True):
        theirs = step(theirs, factor)
    ours = jitter(image, *factors)
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy() * 255).max() < 2.5


def test_identity_jitter() -> None:
    image = RNG.integers(0, 256, (20, 20, 3), np.uint8)
    np.testing.assert_array_equal(jitter(image, 1.0, 1.0, 1.0), image)


def test_same_generator_same_answer() -> None:
    image, mask = _coded()
    one, two = (PRESETS["strong"](image, mask, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_names() -> None:
    assert resolve_augment("light") is PRESETS["light"]
    own = lambda image, mask, rng: (image, mask)  # noqa: E731
    assert resolve_augment(own) is own
    with pytest.raises(ConfigError, match="Did you mean 'medium'"):
        resolve_augment("meduim")


@pytest.mark.timing
def test_medium_takes_less_than_five_milliseconds() -> None:
    image, mask = RNG.integers(0, 256, (360, 480, 3), np.uint8), np.zeros((360, 480), np.int16)
    times = []
    for seed in range(40):
        start = time.perf_counter()
        PRESETS["medium"](image, mask, np.random.default_rng(seed))
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.005
