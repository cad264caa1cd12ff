"""Samples written for another process and read there give the same pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.frame import Samples, check_table
from semseg_automl.data.images import read_image
from semseg_automl.data.masks import read_raw_mask
from semseg_automl.data.sample_files import read_samples, write_samples

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
INDICES = RNG.integers(0, 3, (6, 5), dtype=np.uint8)


def _turned() -> Image.Image:
    """A PIL image that an EXIF entry turns to 6 x 5."""
    image = Image.fromarray(np.ascontiguousarray(COLOURS.swapaxes(0, 1)))
    image.getexif()[0x0112] = 6
    return image


def _palette() -> Image.Image:
    image = Image.fromarray(INDICES, mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return image


def _round_trip(samples: Samples, folder: Path) -> Samples:
    stored = json.loads(json.dumps(write_samples(samples, folder / "samples.bin")))
    return read_samples(stored, folder / "samples.bin")


@pytest.mark.parametrize(
    "picture",
    [
        COLOURS,
        COLOURS[::-1, :, :1],  # not contiguous
        np.dstack([COLOURS, INDICES]),
        (COLOURS.astype(np.uint16) * 257)[..., 0],
        (COLOURS.astype(">u2") * 257)[..., 0],
        COLOURS[..., 0] / 255.0,
        COLOURS.astype(np.float32),
        INDICES > 1,
        _turned(),
        _palette(),
        Image.fromarray(COLOURS).convert("CMYK"),
        Image.fromarray(COLOURS[..., 0].astype(np.float32)),
    ],
    ids=[
        "rgb",
        "view",
        "rgba",
        "16 bit",
        "big-endian",
        "float64",
        "float32",
        "bool",
        "exif",
        "P",
        "CMYK",
        "F",
    ],
)
def test_pictures_in_memory(picture: np.ndarray | Image.Image, tmp_path: Path) -> None:
    samples = check_table([picture], [INDICES], need_label=True)
    again = _round_trip(samples, tmp_path)
    assert again.sizes == samples.sizes
    before, after = read_image(samples.images[0]), read_image(again.images[0])
    assert before.dtype == after.dtype
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "mask",
    [INDICES, INDICES > 1, INDICES.astype(np.int64) - 1, COLOURS, INDICES.astype(float), _palette()],
    ids=["uint8", "bool", "negative", "colours", "float", "palette"],
)
def test_masks_in_memory(mask: np.ndarray | Image.Image, tmp_path: Path) -> None:
    samples = check_table([COLOURS], [mask], need_label=True)
    again = _round_trip(samples, tmp_path)
    assert again.masks is not None and samples.masks is not None
    before, after = read_raw_mask(samples.masks[0]), read_raw_mask(again.masks[0])
    assert before.dtype == after.dtype
    np.testing.assert_array_equal(before, after)


def test_paths_stay_paths_and_need_no_masks(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    samples = check_table([tmp_path / "a.png", COLOURS], need_label=False)
    again = _round_trip(samples, tmp_path)
    assert again.images[0] == str(tmp_path / "a.png")
    assert again.masks is None
    assert list(again.index) == ["0", "1"]


def test_objects_are_refused(tmp_path: Path) -> None:
    samples = check_table([COLOURS], need_label=False)
    broken = Samples(images=(np.array([[None]]),), masks=None, sizes=((1, 1),), index=samples.index)
    with pytest.raises(DataError, match="integers, floats or booleans"):
        write_samples(broken, tmp_path / "samples.bin")
