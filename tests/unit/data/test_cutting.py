"""Windows on disk: every pixel once, the user's own values, and what is kept where not all has room."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data import cutting
from semseg_automl.data.cutting import CutRule, boxes, cut_samples
from semseg_automl.data.frame import Samples, check_table
from semseg_automl.data.images import IntensityScaling, read_image
from semseg_automl.data.labels import infer_label_map, read_mask, scan_masks
from semseg_automl.data.masks import read_raw_mask

ALL = CutRule(side=40, most=10_000, balanced=False)


def _samples(pictures: list[np.ndarray], masks: list[np.ndarray]) -> Samples:
    frame = pd.DataFrame({"image": pictures, "label": masks}, index=[f"row{i}" for i in range(len(masks))])
    return check_table(frame, need_label=True)


def _noise(size: tuple[int, int], seed: int = 0, most: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, (*size, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (40, 41), (100, 40), (37, 999), (81, 79)])
def test_boxes_cover_each_pixel_once(size: tuple[int, int]) -> None:
    seen = np.zeros(size, int)
    shapes = set()
    for top, bottom, left, right in boxes(size, 40):
        seen[top:bottom, left:right] += 1
        shapes.add((bottom - top, right - left))
    assert (seen == 1).all()
    heights, widths = zip(*shapes, strict=True)
    assert max(heights) <= 40 and max(widths) <= 40
    assert max(heights) - min(heights) <= 1 and max(widths) - min(widths) <= 1


@pytest.mark.parametrize("kind", ["bool", "index", "sixteen bits", "wide integers", "colours"])
def test_windows_put_together_are_the_picture(kind: str, tmp_path: Path) -> None:
    size = (90, 130)
    picture = _noise(size)
    values = np.random.default_rng(1).integers(0, 3, size)
    raw = {
        "bool": values > 0,
        "index": values.astype(np.uint8),
        "sixteen bits": (values * 20_000).astype(np.uint16),
        "wide integers": values * 300,
        "colours": np.array([[0, 0, 0], [255, 0, 0], [9, 200, 1]], np.uint8)[values],
    }[kind]
    samples = _samples([picture], [raw])
    label_map = infer_label_map(scan_masks(samples.masks or ()))
    cut = cut_samples(samples, tmp_path, label_map, None, ALL)
    assert len(cut) == 3 * 4 and cut.masks is not None
    image, mask = np.zeros_like(picture), np.zeros_like(raw)
    for name, file, (h, w), label in zip(cut.images, cut.masks, cut.sizes, cut.index, strict=True):
        top, left = (int(part) for part in label.removeprefix("row0 at (").removesuffix(")").split(", "))
        image[top : top + h, left : left + w] = read_image(name)
        mask[top : top + h, left : left + w] = read_raw_mask(file)
    np.testing.assert_array_equal(image, picture)
    np.testing.assert_array_equal(mask, raw)
    whole = read_mask(samples.masks[0], label_map)  # type: ignore[index]
    counted = sum(np.bincount(read_mask(file, label_map).ravel(), minlength=3) for file in cut.masks)
    np.testing.assert_array_equal(counted, np.bincount(whole.ravel(), minlength=3))


def test_deep_pictures_are_stored_as_the_network_sees_them(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4000, (60, 60), np.uint16)
    samples = _samples([deep], [(deep > 2000).astype(np.uint8)])
    label_map = infer_label_map(scan_masks(samples.masks or ()))
    scaling = IntensityScaling(0.0, 4000.0)
    cut = cut_samples(samples, tmp_path, label_map, scaling, ALL)
    first = read_image(cut.images[0])
    assert first.dtype == np.uint8 and first.shape[2] == 3
    top, left = (int(part) for part in cut.index[0].removeprefix("row0 at (").removesuffix(")").split(", "))
    expected = np.rint(deep[top : top + 30, left : left + 30] / 4000 * 255)
    np.testing.assert_array_equal(first[..., 0], expected)


def test_small_pictures_stay_what_they_are(tmp_path: Path) -> None:
    small = str(tmp_path / "small.png")
    Image.fromarray(_noise((30, 40))).save(small)
    masks = [np.eye(30, 40, dtype=np.uint8), np.eye(90, 90, dtype=np.uint8)]
    samples = _samples([small, _noise((90, 90))], masks)
    cut = cut_samples(samples, tmp_path, infer_label_map(scan_masks(masks)), None, ALL)
    assert cut.images[0] == samples.images[0] and cut.sizes[0] == (30, 40) and cut.index[0] == "row0"
    assert len(cut) == 1 + 9


def _striped() -> tuple[Samples, object]:
    """Of 25 windows 4 show a line, 4 are ignored, the rest is background."""
    mask = np.zeros((200, 200), np.uint8)
    mask[5, :160] = 1
    mask[160:, :160] = 255
    samples = _samples([_noise((200, 200))], [mask])
    return samples, infer_label_map(scan_masks(samples.masks or ()), ignore_index=255)


def test_what_shows_nothing_is_left_out_and_background_does_not_outweigh(tmp_path: Path) -> None:
    samples, label_map = _striped()
    kept = {}
    for balanced in (False, True):
        folder = tmp_path / str(balanced)
        folder.mkdir()
        rule = CutRule(side=40, most=100, balanced=balanced)
        cut = cut_samples(samples, folder, label_map, None, rule)  # type: ignore[arg-type]
        kept[balanced] = [int((read_raw_mask(m) == 1).any()) for m in cut.masks or ()]
    assert (len(kept[False]), sum(kept[False])) == (21, 4)
    assert (len(kept[True]), sum(kept[True])) == (8, 4)


def test_sparse_labels_lose_no_class_and_few_windows(tmp_path: Path) -> None:
    """Scribbles: each window shows one class beside ignored pixels, and none shows two."""
    mask = np.full((160, 160), 255, np.uint8)
    for number in range(16):
        row, column = divmod(number, 4)
        mask[40 * row + 5, 40 * column + 5] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2)[number]
    samples = _samples([_noise((160, 160))], [mask])
    label_map = infer_label_map(scan_masks(samples.masks or ()), ignore_index=255)
    for most, count in ((100, 12), (5, 5), (3, 3)):
        folder = tmp_path / str(most)
        folder.mkdir()
        cut = cut_samples(samples, folder, label_map, None, CutRule(side=40, most=most, balanced=True))
        values = [int(read_raw_mask(m).min()) for m in cut.masks or ()]
        assert len(values) == count and set(values) == {0, 1, 2}
        assert most < 100 or values.count(0) == 6  # the commonest as often as the others together


def test_at_most_so_many_and_the_same_ones_again(tmp_path: Path) -> None:
    samples, label_map = _striped()
    found = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        rule = CutRule(side=40, most=6, balanced=False, seed=seed)
        found.append(list(cut_samples(samples, folder, label_map, None, rule).index))  # type: ignore[arg-type]
    assert len(found[0]) == 6 and found[0] == found[1] != found[2]


def test_the_clock_ends_it_but_one_picture_is_cut(tmp_path: Path) -> None:
    masks = [np.eye(90, 90, dtype=np.uint8)] * 5
    samples = _samples([_noise((90, 90), seed) for seed in range(5)], masks)
    cut = cut_samples(
        samples, tmp_path, infer_label_map(scan_masks(masks)), None, ALL, until=time.monotonic()
    )
    assert len(cut) == 9 and len({label.split(" at ")[0] for label in cut.index}) == 1


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [np.eye(90, 90, dtype=np.int64) * 70_000]
    samples = _samples([_noise((90, 90))], masks)
    label_map = infer_label_map(scan_masks(masks))
    with pytest.raises(DataError, match="from 0 to 65535"):
        cut_samples(samples, tmp_path, label_map, None, ALL)
    with pytest.raises(DataError, match="need_label=True"):
        cut_samples(check_table([_noise((90, 90))], need_label=False), tmp_path, label_map, None, ALL)
    changed = Samples(images=samples.images, masks=samples.masks, sizes=((90, 91),), index=samples.index)
    with pytest.raises(DataError, match="no longer"):
        cut_samples(changed, tmp_path, label_map, None, ALL)
    assert cutting.boxes((90, 90), 40) == [
        (t, t + 30, left, left + 30) for t in (0, 30, 60) for left in (0, 30, 60)
    ]
