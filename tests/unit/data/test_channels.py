"""Pictures of one to sixteen channels on their way to the network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.augment import PRESETS
from semseg_automl.data.channels import in_threes
from semseg_automl.data.dataset import SegmentationDataset, collate
from semseg_automl.data.frame import check_table
from semseg_automl.data.images import IntensityScaling, infer_scaling, network_channels, to_rgb
from semseg_automl.data.label_map import LabelMap
from semseg_automl.data.preprocess import MEAN, STD, normalise, resize_rgb
from semseg_automl.data.windows import PictureWindows

RNG = np.random.default_rng(0)


def _bands(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(0, 256, (20, 24, channels)).astype(dtype)


@pytest.mark.parametrize(("channels", "seen"), [(1, 3), (2, 3), (3, 3), (4, 4), (6, 6), (16, 16)])
def test_the_network_sees_three_channels_or_more(channels: int, seen: int) -> None:
    pictures = [_bands(channels) for _ in range(3)]
    scaling = infer_scaling(pictures)
    assert network_channels(scaling) == seen and (scaling is None) == (seen == 3)
    out = to_rgb(pictures[0], scaling)
    assert out.shape == (20, 24, seen) and out.dtype == np.uint8
    np.testing.assert_array_equal(out[..., : min(channels, seen)], pictures[0])
    if channels == 1:
        np.testing.assert_array_equal(out[..., 2], pictures[0][..., 0])
    if channels == 2:
        np.testing.assert_array_equal(out[..., 2], np.floor(pictures[0].mean(-1)))


def test_many_deep_channels_have_a_range_each_and_survive_json() -> None:
    ranges = [(0, 1), (1000, 3000), (-5, 5), (7, 8)]
    picture = np.stack([RNG.uniform(low, high, (100, 100)) for low, high in ranges], -1)
    scaling = infer_scaling([picture])
    assert scaling is not None and scaling.channels == 4
    np.testing.assert_allclose(np.array([scaling.low, scaling.high]).T, ranges, rtol=0.01, atol=0.02)
    np.testing.assert_allclose(to_rgb(picture, scaling).reshape(-1, 4).mean(0), 127.5, atol=3)
    assert IntensityScaling(**json.loads(json.dumps(vars(scaling)))) == scaling
    with pytest.raises(ConfigError, match="5 channels"):
        IntensityScaling((0.0, 0.0), (1.0, 1.0), 5)


def test_colour_of_sixteen_bits_keeps_one_range_for_all() -> None:
    scaling = infer_scaling([_bands(3, np.uint16) * 100])
    assert scaling is not None and isinstance(scaling.low, float) and scaling.channels == 3


def test_other_numbers_of_channels_are_refused_by_row() -> None:
    six, rgb, grey = _bands(6), _bands(3), _bands(1)
    assert len(check_table([rgb, grey], need_label=False)) == 2
    table = pd.DataFrame({"image": [six, six, rgb]}, index=["a", "b", "c"])
    with pytest.raises(DataError, match=r"number of channels \(bring all.*row 'c'.*has 3, most have 6"):
        check_table(table, need_label=False)
    with pytest.raises(DataError, match=r"row 0: .* has 6, the model was trained on 3"):
        check_table([six], need_label=False, channels=3)
    with pytest.raises(DataError, match="it has 3 channels, the model was trained on pictures of 6 channels"):
        to_rgb(rgb, IntensityScaling(0.0, 255.0, 6))


def test_resizing_and_normalising_treat_each_channel_alone() -> None:
    picture = _bands(6)
    resized = resize_rgb(picture, (13, 17))
    for first in (0, 3):
        alone = Image.fromarray(picture[..., first : first + 3]).resize((17, 13), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resized[..., first : first + 3], np.asarray(alone))
    out = normalise(resized, (32, 32))
    mean, std = [*MEAN, *[sum(MEAN) / 3] * 3], [*STD, *[sum(STD) / 3] * 3]
    expected = (resized - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(out[:, :13, :17].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert not out[:, 13:].any()


def test_windows_of_many_channels_equal_the_resized_whole() -> None:
    picture = np.clip(np.cumsum(RNG.integers(-2, 3, (40, 48, 5)), 1) + 100, 0, 255).astype(np.uint8)
    scaling = IntensityScaling(0.0, 255.0, 5)
    window = PictureWindows(picture, scaling).window((20, 24), (4, 16), (6, 20))
    whole = resize_rgb(picture, (20, 24))
    assert np.abs(window.astype(int) - whole[4:16, 6:20]).max() <= 1


@pytest.mark.parametrize("channels", [3, 4, 6, 7])
def test_augmentation_moves_all_channels_and_the_mask_together(channels: int) -> None:
    image = np.repeat(_bands(3), 3, axis=2)[..., [0, 3, 6] * 3][..., :channels]  # channel k repeats k % 3
    mask = RNG.integers(0, 3, (20, 24)).astype(np.int16)
    for seed in range(5):
        out, out_mask = in_threes(PRESETS["strong"], image, mask, (seed,))
        expected, expected_mask = PRESETS["strong"](image[..., :3], mask, np.random.default_rng((seed,)))
        np.testing.assert_array_equal(out_mask, expected_mask)
        np.testing.assert_array_equal(out[..., :3], expected)
        if channels >= 6:
            np.testing.assert_array_equal(out[..., 3:6], expected)
        assert out.shape == image.shape


def test_items_and_batches_hold_every_channel() -> None:
    pictures = [_bands(6) for _ in range(2)]
    masks = [RNG.integers(0, 2, (20, 24)).astype(np.uint8) for _ in range(2)]
    samples = check_table(pictures, masks, need_label=True)
    label_map = LabelMap(problem_type="binary", names=("a", "b"), values=(0, 1))
    data = SegmentationDataset(
        samples, label_map, image_size=32, augment="medium", crop_size=32, scaling=infer_scaling(pictures)
    )
    assert collate([data[0], data[1]])["image"].shape == (2, 6, 32, 32)
    assert torch.isfinite(data.full_size(0)[0]).all() and data.full_size(0)[0].shape == (6, 32, 32)
