"""Thickness of classes, against shapes whose thickness is known; sizes of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from semseg_automl.data.fingerprint import PictureSizes, class_pixels, thickness, thinnest_class
from semseg_automl.data.labels import LabelMap

BINARY = LabelMap(problem_type="binary", names=("background", "line"), values=(0, 1), ignore=255)


def striped(width: int, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[20 : 20 + width] = 1
    return mask


@pytest.mark.parametrize("width", [1, 3, 10])
def test_a_stripe_is_as_thick_as_it_is_wide(width: int) -> None:
    (_, _), (area, border) = thickness(BINARY.encode(striped(width)), 2)
    assert 2 * area / border == width
    assert thinnest_class([striped(width)] * 3, BINARY) == pytest.approx(width / 64)


def test_ignored_pixels_count_as_no_class() -> None:
    mask = striped(4)
    mask[:, 32:] = 255
    (background, _), (line, border) = thickness(BINARY.encode(mask), 2)
    assert (background, line) == (60 * 32, 4 * 32)
    assert border == 2 * 32 + 4  # above, below, and where the ignored part begins


def test_masks_without_a_border_are_not_thin() -> None:
    assert thinnest_class([np.zeros((8, 8), np.uint8)], BINARY) == 1.0


def test_picture_sizes() -> None:
    found = PictureSizes.of([(10, 20), (300, 5), (40, 30), (7, 8)])
    assert found == PictureSizes(median=(10, 20), longest=300)
    assert PictureSizes.of([(3, 4)]) == PictureSizes(median=(3, 4), longest=4)
    assert PictureSizes.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "stored",
    [None, {}, {"median": [3, 4]}, {"median": [0, 4], "longest": 4}, {"median": 3, "longest": 4}, "3 x 4"],
)
def test_models_stored_without_sizes(stored: object) -> None:
    assert PictureSizes.from_json(stored) is None


def test_class_pixels_are_counted_without_ignored_ones() -> None:
    ignored = striped(3)
    ignored[:10] = 255
    assert class_pixels([striped(3), ignored], BINARY) == (2 * 61 * 64 - 10 * 64, 2 * 3 * 64)
