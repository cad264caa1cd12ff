"""Augmentation: picture and mask stay together, colours follow torchvision, and it is fast."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.augment import PRESETS, Augment, jitter, random_window, resolve_augment
from semseg_automl.data.augment_ops import FILL, blur, compress, noise, rotate
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


def test_the_planned_recipes_never_turn_a_picture_over() -> None:
    turned = [n for n, r in PRESETS.items() if r.vertical_flip or r.quarter_turns or r.rotation]
    assert turned == ["strong", "medical", "aerial"]


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


# single changes against SciPy and Pillow


def _smooth(height: int = 90, width: int = 120) -> np.ndarray:
    small = Image.fromarray(RNG.integers(40, 216, (6, 8, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("degrees", [-33.0, -10.0, 4.0, 15.0, 90.0])
def test_rotation_against_scipy(degrees: float) -> None:
    image = _smooth()
    mask = (image[..., 1] > 128).astype(np.int16)
    ours, labels = rotate(image, mask, degrees, mask.shape)
    theirs = ndimage.rotate(image.astype(float), degrees, reshape=False, order=1, cval=np.nan)
    told = ndimage.rotate(mask, degrees, reshape=False, order=0, cval=IGNORE)
    assert ours.dtype == np.uint8 and labels.dtype == np.int16
    inside = np.isfinite(theirs[..., 0]) & (labels != IGNORE)
    assert np.abs(ours - theirs)[inside].mean() < 1.0 and inside.mean() > 0.3
    assert (labels == told).mean() > 0.97
    outside = ndimage.binary_erosion((labels == IGNORE) & (told == IGNORE), border_value=1)
    assert (ours[outside] == FILL).all()


@pytest.mark.parametrize("size", [(90, 120), (50, 61), (101, 130), (40, 150)])
def test_a_rotated_picture_is_cut_around_its_middle(size: tuple[int, int]) -> None:
    image = _smooth()
    mask = np.zeros((90, 120), np.int16)
    mask[43:47, 58:62] = 1  # around the middle
    out, labels = rotate(image, mask, 20.0, size)
    assert out.shape == (*size, 3) and labels.shape == size
    rows, columns = np.nonzero(labels == 1)
    middle = rows.mean() + 0.5, columns.mean() + 0.5
    np.testing.assert_allclose(middle, (size[0] / 2, size[1] / 2), atol=1.01)
    outside = out[ndimage.binary_erosion(labels == IGNORE, iterations=2, border_value=1)].astype(int)
    assert np.abs(outside - FILL).max(initial=0) <= 1  # Pillow rounds down


def test_a_rotated_crop_has_picture_in_its_corners() -> None:
    image = _smooth(300, 300)
    recipe = Augment(rotation=30.0, rotation_share=1.0)
    for seed in range(20):
        out, labels = recipe(
            image, np.zeros((300, 300), np.int16), np.random.default_rng(seed), crop=(100, 100)
        )
        assert out.shape == (100, 100, 3) and (labels != IGNORE).mean() > 0.99
    whole, labels = recipe(image, np.zeros((300, 300), np.int16), np.random.default_rng(1))
    assert whole.shape == image.shape and 0.5 < (labels != IGNORE).mean() < 1


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.5])
def test_blur_against_scipy(sigma: float) -> None:
    image = _smooth()
    image = np.where(RNG.random((90, 120, 1)) < 0.1, 255 - image, image).astype(np.uint8)
    theirs = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror")
    assert np.abs(blur(image, sigma) - theirs).mean() < 1.0
    assert np.abs(image - theirs).mean() > (0.05 if sigma < 0.5 else 3)


@pytest.mark.parametrize("quality", [40, 80])
def test_compression_against_pillow(quality: int) -> None:
    image, stream = _smooth(), io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=quality)
    assert np.abs(compress(image, quality).astype(int) - np.asarray(Image.open(stream))).mean() < 1.0
    assert np.abs(compress(image, 40).astype(int) - image).mean() > 0.5


def test_noise_has_its_sigma_and_clips() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    difference = noise(image, 10.0, np.random.default_rng(0)).astype(float) - 128
    assert abs(difference.mean()) < 0.2 and abs(difference.std() - 10.0) < 0.2
    assert noise(np.full((20, 20, 3), 255, np.uint8), 30.0, np.random.default_rng(0)).max() == 255


def test_quarter_turns() -> None:
    image, mask = _coded(60, 60)
    recipe, seen = Augment(quarter_turns=True), set()
    for seed in range(40):
        out, labels = recipe(image, mask, np.random.default_rng(seed))
        turns = [
            k for k in range(4) if (out == np.rot90(image, k)).all() and (labels == np.rot90(mask, k)).all()
        ]
        assert turns
        seen.update(turns)
    assert seen == {0, 1, 2, 3}
    image, mask = _coded(60, 80)
    for seed in range(10):
        out, labels = recipe(image, mask, np.random.default_rng(seed))
        assert labels.shape == mask.shape
        out, labels = recipe(image, mask, np.random.default_rng(seed), crop=(40, 32))
        assert out.shape == (40, 32, 3) and labels.shape == (40, 32)


# the user's own


def test_a_torchvision_transform_is_taken_as_it_is() -> None:
    image, mask = _coded()
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    theirs = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(20, fill=fill),
            v2.ColorJitter(0.1),
            v2.RandomCrop((40, 50)),
        ]
    )
    before = torch.random.get_rng_state()
    one, two = (resolve_augment(theirs)(image, mask, np.random.default_rng(3)) for _ in range(2))
    other = resolve_augment(theirs)(image, mask, np.random.default_rng(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])
    assert one[0].shape == (40, 50, 3) and one[0].dtype == np.uint8
    assert one[1].shape == (40, 50) and one[1].dtype == np.int16 and (one[1] == IGNORE).any()
    seen = one[1] != IGNORE
    told = np.rint((one[0][..., 1].astype(float) - 60) / 40)
    assert np.corrcoef(told[seen], one[1][seen])[0, 1] > 0.8
    flipped = resolve_augment(v2.RandomHorizontalFlip(1.0))(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped[1], mask[:, ::-1])


def test_a_transform_that_normalises_is_refused() -> None:
    image, mask = _coded()
    with pytest.raises(ConfigError, match="leave out ToDtype"):
        resolve_augment(v2.ToDtype(torch.float32, scale=True))(image, mask, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["light", "medium"])
def test_the_planned_recipes_draw_what_they_always_drew(name: str) -> None:
    """New changes must not move the random numbers of the recipes that results were made with."""
    image, mask = _coded()
    recipe = PRESETS[name]
    for seed in range(10):
        rng = np.random.default_rng(seed)
        expected, labels = image, mask
        if rng.random() < 0.5:
            expected, labels = expected[:, ::-1], labels[:, ::-1]
        rng.random()
        factor = float(np.exp(rng.uniform(*np.log(recipe.scale)))) if recipe.scale else 1.0
        expected, labels = random_window(expected, labels, (32, 32), factor, rng.random(2))
        if name == "medium":
            expected = jitter(np.ascontiguousarray(expected), *(1 + 0.2 * rng.uniform(-1, 1, 3)))
        out, told = recipe(image, mask, np.random.default_rng(seed), crop=(32, 32))
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(told, labels)


@pytest.mark.timing
@pytest.mark.parametrize("name", ["strong", "medical", "aerial"])
def test_the_other_recipes_take_less_than_thirty_milliseconds(name: str) -> None:
    image, mask = RNG.integers(0, 256, (360, 480, 3), np.uint8), np.zeros((360, 480), np.int16)
    times = []
    for seed in range(60):
        start = time.perf_counter()
        PRESETS[name](image, mask, np.random.default_rng(seed))
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.03
