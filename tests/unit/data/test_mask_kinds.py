"""Masks as people have them: merged, dropped, thresholded, one file for each class, with a palette."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.frame import check_table
from semseg_automl.data.label_map import IGNORE, LabelMap
from semseg_automl.data.labels import class_counts, infer_label_map, presence, read_mask, scan_masks
from semseg_automl.data.masks import read_raw_mask
from semseg_automl.data.sample_files import read_samples, write_samples
from semseg_automl.data.sources import MaskStack

RNG = np.random.default_rng(3)
RAW = RNG.integers(0, 6, (12, 14)).astype(np.uint8)
THRESHOLD = {range(0, 128): "background", range(128, 256): "road"}


def _disc(side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side / 2
    return np.where(y**2 + x**2 < side**2 / 9, np.uint8(255), np.uint8(0))


def _jpeg(mask: np.ndarray, quality: int = 75) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "jpeg", quality=quality)
    return np.asarray(Image.open(stream))


def test_values_of_one_name_are_one_class_and_none_is_dropped() -> None:
    classes = {0: "rest", 1: "road", 2: "road", 3: "car", 4: None, 5: None}
    label_map = infer_label_map(scan_masks([RAW]), classes=classes)
    assert label_map.names == ("rest", "road", "car") and label_map.values == (0, 1, 3)
    expected = np.array([0, 1, 1, 2, IGNORE, IGNORE])[RAW]
    np.testing.assert_array_equal(label_map.encode(RAW), expected)
    np.testing.assert_array_equal(label_map.encode(RAW.astype(np.int64) + 0), expected)
    assert label_map.unknown_values(RAW) == set()
    counts = class_counts(scan_masks([RAW]), label_map)
    np.testing.assert_array_equal(counts, [[(expected == k).sum() for k in range(3)]])
    assert presence(scan_masks([RAW]), label_map).all()
    assert set(np.unique(label_map.decode(np.array([[0, 1, 2]])))) == {0, 1, 3}
    assert LabelMap.from_json(json.loads(json.dumps(label_map.to_json()))) == label_map


def test_colours_are_merged_and_dropped_too() -> None:
    palette = np.array([(0, 0, 0), (255, 0, 0), (250, 0, 0), (9, 9, 9), (1, 2, 3), (7, 8, 9)], np.uint8)
    colours = palette[RAW]
    keys = [tuple(int(v) for v in c) for c in palette]
    names = ["rest", "road", "road", "car", None, None]
    label_map = infer_label_map(scan_masks([colours]), classes=dict(zip(keys, names, strict=True)))
    np.testing.assert_array_equal(label_map.encode(colours), np.array([0, 1, 1, 2, IGNORE, IGNORE])[RAW])
    np.testing.assert_array_equal(label_map.decode(np.array([[1]])), [[[255, 0, 0]]])


def test_a_value_that_no_key_holds_is_still_refused() -> None:
    with pytest.raises(DataError, match="5 in 1 masks"):
        infer_label_map(scan_masks([RAW]), classes={0: "a", 1: "b", 2: "b", 3: "b", 4: None})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0: "a", range(0, 5): "b"}, "0 twice"),
        ({range(0, 10, 2): "a", 1: "b"}, "rises by 1"),
        ({range(5, 5): "a", 1: "b"}, "rises by 1"),
        ({0: None}, "names no class"),
        ({"0": "a"}, "integer or"),
    ],
)
def test_mappings_that_contradict_themselves(classes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        infer_label_map(scan_masks([RAW]), classes=classes)


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_jpeg_noise_around_0_and_255_is_explained_and_thresholded_only_when_asked(quality: int) -> None:
    mask = _disc()
    noisy = _jpeg(mask, quality)
    scan = scan_masks([noisy], index=["row seven"])
    with pytest.raises(DataError, match=r"(?s)saved as JPEG.*row seven.*PNG.*range\(128, 256\)"):
        infer_label_map(scan)
    label_map = infer_label_map(scan, classes=THRESHOLD)
    assert label_map.problem_type == "binary" and label_map.values == (0, 255)
    np.testing.assert_array_equal(label_map.encode(noisy), noisy >= 128)
    assert (label_map.encode(noisy) == (mask > 0)).mean() > 0.99
    assert set(np.unique(label_map.decode(label_map.encode(noisy)))) == {0, 255}
    assert LabelMap.from_json(json.loads(json.dumps(label_map.to_json()))) == label_map


def test_smoothed_masks_are_refused_and_plain_ones_are_not() -> None:
    smooth = np.asarray(Image.fromarray(_disc(128)).filter(ImageFilter.GaussianBlur(1)))
    with pytest.raises(DataError, match="resized with smoothing"):
        infer_label_map(scan_masks([smooth]))
    voc = np.concatenate([np.arange(21), [255] * 20]).astype(np.uint8).reshape(1, -1)
    assert infer_label_map(scan_masks([voc])).n_classes == 21
    many = np.arange(255, dtype=np.uint8).reshape(5, -1)  # 255 classes, all as large
    assert infer_label_map(scan_masks([many])).n_classes == 255


def _columns(tmp_path: Path) -> pd.DataFrame:
    """Three pictures; 'road' as 0/255, 'car' as {0, 1}; row 'b' has no car."""
    rows = []
    for i in range(3):
        road, car = RNG.random((2, 12, 14)) > 0.6
        Image.fromarray(RNG.integers(0, 256, (12, 14, 3), np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(road.astype(np.uint8) * 255).save(tmp_path / f"r{i}.png")
        Image.fromarray(car.astype(np.uint8)).save(tmp_path / f"c{i}.png")
        rows.append([str(tmp_path / f"{kind}{i}.png") for kind in ("", "r", "c")])
    rows[1][2] = None
    return pd.DataFrame(rows, columns=["image", "road", "car"], index=["a", "b", "c"])


def test_a_file_for_each_class(tmp_path: Path) -> None:
    table = _columns(tmp_path)
    samples = check_table(table, label=["road", "car"], need_label=True)
    assert samples.masks is not None and samples.sizes == ((12, 14),) * 3
    for i, mask in enumerate(samples.masks):
        road = np.asarray(Image.open(tmp_path / f"r{i}.png")) > 0
        expected = np.where(road, 1, 0)
        if i != 1:
            expected = np.where(np.asarray(Image.open(tmp_path / f"c{i}.png")) > 0, 2, expected)
        np.testing.assert_array_equal(read_raw_mask(mask), expected)
    stored = json.loads(json.dumps(write_samples(samples, tmp_path / "samples.bin")))
    back = read_samples(stored, tmp_path / "samples.bin")
    for one, two in zip(samples.masks, back.masks or (), strict=True):
        np.testing.assert_array_equal(read_raw_mask(one), read_raw_mask(two))
    relative = table.map(lambda p: Path(p).name if isinstance(p, str) else None)
    relative.to_csv(tmp_path / "t.csv", index=False)
    again = check_table(tmp_path / "t.csv", label=["road", "car"], need_label=True)
    np.testing.assert_array_equal(read_raw_mask(again.masks[1]), read_raw_mask(samples.masks[1]))


def test_what_can_be_wrong_with_a_file_for_each_class(tmp_path: Path) -> None:
    table = _columns(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    table.loc["a", "car"] = str(tmp_path / "small.png")
    table.loc["b", "road"] = None
    table.loc["c", "car"] = "gone.png"
    with pytest.raises(DataError) as caught:
        check_table(table, label=["road", "car"], need_label=True)
    for part in (
        "row 'a'",
        "14x12, 9x9",
        "row 'b': every one of the cells is empty. Fill one",
        "row 'c'",
        "gone.png",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"'cars' is not among.*Did you mean 'car'"):
        check_table(table, label=["road", "cars"], need_label=True)
    for wrong in ([], ["road", "road"], 3):
        with pytest.raises(ConfigError, match="label is a column's name or a list"):
            check_table(table, label=wrong, need_label=True)  # type: ignore[arg-type]
    stack = MaskStack(parts=(_jpeg(_disc()),))
    with pytest.raises(DataError, match="one other value, found"):
        scan_masks([stack])


def test_the_palette_of_the_table_is_kept_and_a_mixed_one_is_not(tmp_path: Path) -> None:
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    for name, own in (("a", colours), ("b", colours), ("c", [9] * 9)):
        picture = Image.frombytes("P", (14, 12), (RAW % 3).tobytes())
        picture.putpalette(own)
        picture.save(tmp_path / f"{name}.png")
    one = infer_label_map(scan_masks([tmp_path / "a.png", tmp_path / "b.png"]))
    assert one.palette == tuple(colours) and one.values == (0, 1, 2)
    assert LabelMap.from_json(json.loads(json.dumps(one.to_json()))) == one
    for other in (tmp_path / "c.png", RAW % 3):
        assert infer_label_map(scan_masks([tmp_path / "a.png", other])).palette is None
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", one), RAW % 3)
