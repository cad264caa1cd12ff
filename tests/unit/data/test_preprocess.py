"""Geometry and tensors, against Pillow and the written-out formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.label_map import IGNORE
from semseg_automl.data.preprocess import MEAN, STD, Geometry, plan_geometry, prepare_image, prepare_mask

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("size", "image_size", "resized", "padded"),
    [
        ((360, 480), 512, (384, 512), (384, 512)),
        ((480, 360), 512, (512, 384), (512, 384)),
        ((120, 120), 512, (512, 512), (512, 512)),
        ((1000, 3), 512, (512, 2), (512, 32)),
        ((4000, 1), 64, (64, 1), (64, 32)),
        ((1, 1), 64, (64, 64), (64, 64)),
        ((100, 201), 100, (50, 100), (64, 128)),
        ((360, 480), (256, 256), (192, 256), (256, 256)),
        ((480, 360), (200, 300), (200, 150), (224, 320)),
    ],
)
def test_geometry(size: tuple, image_size: int | tuple, resized: tuple, padded: tuple) -> None:
    assert plan_geometry(size, image_size) == Geometry(original=size, resized=resized, padded=padded)


def test_the_long_side_is_exact_and_the_aspect_kept() -> None:
    for _ in range(500):
        h, w = (int(v) for v in RNG.integers(1, 3000, 2))
        target = int(RNG.integers(1, 2000))
        geometry = plan_geometry((h, w), target, multiple=16)
        short, long = sorted(geometry.resized)
        assert long == target and short == max(1, round(min(h, w) * target / max(h, w)))
        assert all(
            p % 16 == 0 and 0 <= p - r < 16 for p, r in zip(geometry.padded, geometry.resized, strict=True)
        )


def test_bad_sizes_are_refused() -> None:
    for size, image_size in (((0, 4), 8), ((4, 4), 0), ((4, 4), (8, -1))):
        with pytest.raises(ConfigError):
            plan_geometry(size, image_size)


def test_image_tensor_is_the_written_out_formula() -> None:
    rgb = RNG.integers(0, 256, (50, 90, 3), np.uint8)
    geometry = plan_geometry((50, 90), 64)
    tensor = prepare_image(rgb, geometry)
    assert tensor.shape == (3, 64, 64) and tensor.dtype == torch.float32
    small = np.asarray(Image.fromarray(rgb).resize((64, 36), Image.Resampling.BILINEAR), np.float32)
    expected = (small - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    torch.testing.assert_close(tensor[:, :36], torch.from_numpy(expected).permute(2, 0, 1))
    assert (tensor[:, 36:] == 0).all()


def test_resizing_is_antialiased_like_torch() -> None:
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 256, (12, 12, 3), np.uint8)).resize((200, 160)))
    ours = prepare_image(smooth, plan_geometry((160, 200), 50)).numpy()
    pixels = torch.from_numpy(smooth.copy()).permute(2, 0, 1)[None].float()
    theirs = torch.nn.functional.interpolate(pixels, (40, 50), mode="bilinear", antialias=True)[0].numpy()
    theirs = (theirs - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    assert np.abs(ours[:, :40, :50] - theirs).max() < 1.01 / 57  # one grey level


@pytest.mark.parametrize("size", [(7, 11), (64, 48), (200, 31)])
def test_mask_is_nearest_like_torch_and_padding_is_ignored(size: tuple[int, int]) -> None:
    mask = RNG.integers(-1, 5, size).astype(np.int16)
    geometry = plan_geometry(size, 48)
    tensor = prepare_mask(mask, geometry)
    h, w = geometry.resized
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (h, w), mode="nearest-exact"
    )
    assert tensor.dtype == torch.int64 and tensor.shape == geometry.padded
    torch.testing.assert_close(tensor[:h, :w], exact[0, 0].long())
    assert (tensor[h:] == IGNORE).all() and (tensor[:, w:] == IGNORE).all()
