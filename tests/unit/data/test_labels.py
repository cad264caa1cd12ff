"""Masks of every kind: what is read, what the classes are, and the way back."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.labels import (
    IGNORE,
    LabelMap,
    infer_label_map,
    presence,
    read_mask,
    read_raw_mask,
    scan_masks,
)
from semseg_automl.data.masks import count_values

RNG = np.random.default_rng(1)
RED, GREEN, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 0)


def _mask(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    """A mask that holds just these values."""
    return np.resize(np.array(values, dtype), (4, 6))


def _infer(*masks: np.ndarray, **options: Any) -> LabelMap:
    return infer_label_map(scan_masks(masks), **options)


def _round_trip(label_map: LabelMap, raw: np.ndarray) -> None:
    indices = label_map.encode(raw)
    assert indices.dtype == np.int16 and indices.shape == raw.shape[:2]
    np.testing.assert_array_equal(label_map.decode(indices), raw)
    assert LabelMap.from_json(json.loads(json.dumps(label_map.to_json()))) == label_map


@pytest.mark.parametrize(
    ("values", "problem_type", "classes", "ignored"),
    [
        ([0, 1], "binary", (0, 1), None),
        ([0, 255], "binary", (0, 255), None),
        ([0, 1, 255], "binary", (0, 1), 255),
        ([0, 1, 2, 255], "multiclass", (0, 1, 2), 255),
        ([1, 2, 3], "multiclass", (1, 2, 3), None),
        ([1, 2, 255], "multiclass", (1, 2), 255),
        ([0, 128, 255], "binary", (0, 128), 255),
        ([0, 7], "binary", (0, 7), None),
        ([255], "binary", (0, 255), None),
        ([3], "binary", (0, 3), None),
        ([0], "binary", (0, 1), None),
    ],
)
def test_auto_rules(
    values: list[int], problem_type: str, classes: tuple[int, ...], ignored: int | None
) -> None:
    label_map = _infer(_mask(*values))
    assert (label_map.problem_type, label_map.values, label_map.ignore) == (problem_type, classes, ignored)
    assert label_map.n_classes == len(classes) and label_map.num_outputs == (
        1 if len(classes) == 2 and problem_type == "binary" else label_map.n_classes
    )
    _round_trip(label_map, _mask(*values))


def test_the_rule_for_255_looks_at_the_whole_table_never_at_one_mask() -> None:
    only_255, ordinary = _mask(0, 255), _mask(0, 1)
    assert _infer(only_255, only_255).values == (0, 255)
    label_map = _infer(only_255, ordinary, _mask(255), _mask(0))
    assert label_map.values == (0, 1) and label_map.ignore == 255
    assert set(np.unique(label_map.encode(only_255))) == {IGNORE, 0}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32, ">u2"])
def test_any_number_type(dtype: Any) -> None:
    label_map = _infer(_mask(0, 3, 9, dtype=dtype))
    assert label_map.values == (0, 3, 9)
    np.testing.assert_array_equal(
        label_map.encode(read_raw_mask(_mask(0, 3, 9, 4, dtype=dtype)))[0, :4], [0, 1, 2, IGNORE]
    )


def test_sixteen_bit_values_and_negative_ignore(tmp_path: Path) -> None:
    raw = _mask(0, 300, 40000, dtype=np.uint16)
    Image.fromarray(raw).save(tmp_path / "m.png")
    label_map = _infer(tmp_path / "m.png")
    assert label_map.decode(np.array([[2]])).dtype == np.uint16
    _round_trip(label_map, read_raw_mask(tmp_path / "m.png"))
    negative = _infer(_mask(-1, 0, 1, 2, dtype=np.int64), ignore_index=-1)
    assert negative.values == (0, 1, 2) and negative.decode(np.array([[0, 2]])).dtype == np.uint8
    assert negative.decode(np.array([[0, IGNORE]])).tolist() == [[0, -1]]


def test_palette_masks_are_their_indices(tmp_path: Path) -> None:
    raw = RNG.integers(0, 3, (9, 11), np.uint8)
    picture = Image.frombytes("P", (11, 9), raw.tobytes())
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [7] * 759)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_raw_mask(tmp_path / "p.png"), raw)
    assert _infer(tmp_path / "p.png").values == (0, 1, 2)


def test_one_bit_masks(tmp_path: Path) -> None:
    raw = RNG.random((9, 11)) > 0.5
    Image.fromarray(raw).save(tmp_path / "b.png")
    assert read_raw_mask(tmp_path / "b.png").dtype == bool
    label_map = _infer(tmp_path / "b.png", raw)
    assert label_map.values == (0, 1)
    np.testing.assert_array_equal(label_map.encode(raw), raw.astype(int))


def test_boolean_masks_among_0_255_masks_mean_255() -> None:
    raw = RNG.random((9, 11)) > 0.5
    label_map = _infer(raw, raw.astype(np.uint8) * 255)
    assert label_map.values == (0, 255) and label_map.ignore is None
    np.testing.assert_array_equal(label_map.encode(raw), raw.astype(int))
    assert label_map.unknown_values(raw) == set()


def test_boolean_masks_among_index_masks_mean_1() -> None:
    raw = RNG.random((9, 11)) > 0.5
    scan = scan_masks([raw, _mask(0, 1, 255)])
    assert scan.rows[0] == {0: int((~raw).sum()), 1: int(raw.sum())}
    label_map = infer_label_map(scan)
    assert label_map.values == (0, 1) and label_map.ignore == 255
    np.testing.assert_array_equal(label_map.encode(raw), raw.astype(int))


def test_colours_round_trip_and_alpha_is_dropped(tmp_path: Path) -> None:
    raw = np.array([BLACK, RED, GREEN], np.uint8)[RNG.integers(0, 3, (9, 11))]
    Image.fromarray(np.dstack([raw, np.full((9, 11), 40, np.uint8)])).save(tmp_path / "c.png")
    label_map = _infer(tmp_path / "c.png")
    assert label_map.values == (BLACK, GREEN, RED) and label_map.colours and label_map.ignore is None
    _round_trip(label_map, read_raw_mask(tmp_path / "c.png"))
    other = raw.copy()
    other[0, 0] = (1, 2, 3)
    assert label_map.encode(other)[0, 0] == IGNORE and label_map.unknown_values(other) == {(1, 2, 3)}


def test_two_colours_of_which_one_is_black_are_binary() -> None:
    raw = np.array([BLACK, RED], np.uint8)[_mask(0, 1)]
    assert _infer(raw).problem_type == "binary"
    assert _infer(np.array([GREEN, RED], np.uint8)[_mask(0, 1)]).problem_type == "multiclass"


def test_grey_colours_are_numbers_over_the_whole_table() -> None:
    grey = np.repeat(_mask(0, 255)[..., None], 3, axis=2)
    label_map = _infer(grey, _mask(0, 255))
    assert label_map.values == (0, 255)
    np.testing.assert_array_equal(label_map.encode(grey), label_map.encode(_mask(0, 255)))
    mixed = _infer(np.array([BLACK, RED], np.uint8)[_mask(0, 1)], _mask(0))
    assert mixed.values == (BLACK, RED)
    np.testing.assert_array_equal(mixed.encode(_mask(0)), 0)
    assert (
        mixed.unknown_values(_mask(0, 9)) == {9} and mixed.encode(_mask(900, dtype=np.int64)).max() == IGNORE
    )


def test_classes_as_list() -> None:
    assert _infer(_mask(0, 2), classes=["a", "b", "c"]).values == (0, 1, 2)  # indices, b absent
    assert _infer(_mask(1, 3), classes=["a", "b"]).values == (1, 3)  # ascending
    assert _infer(_mask(0, 255), classes=["bg", "fg"]).names == ("bg", "fg")
    assert _infer(_mask(0, 255), classes=["crack"]).names == ("background", "crack")
    assert _infer(_mask(0, 1, 255), classes=["a", "b", "c"]).ignore == 255  # c is value 2, absent
    assert _infer(_mask(0, 128, 255), classes=["a", "b", "c"]).values == (0, 128, 255)  # the names settle it
    with pytest.raises(DataError, match=r"2 names.*3 values"):
        _infer(_mask(0, 5, 9), classes=["a", "b"])


def test_classes_as_mapping_fix_order_and_name_the_unknown() -> None:
    label_map = _infer(_mask(0, 255), classes={255: "paper", 0: "ink"})
    assert label_map.values == (255, 0) and label_map.encode(_mask(0)).max() == 1
    assert _infer(_mask(0, 1, 255), classes={0: "a", 1: "b", 255: "c"}).ignore is None
    assert _infer(_mask(0, 4), classes={4: "lake"}).names == ("background", "lake")
    colours = np.array([BLACK, RED], np.uint8)[_mask(0, 1)]
    assert _infer(colours, classes={(0, 0, 0): "none", (255, 0, 0): "roof"}).names == ("none", "roof")
    scan = scan_masks([_mask(0, 1), _mask(0, 7), _mask(7, 9)], index=["r1", "r2", "r3"])
    with pytest.raises(DataError, match=r"(?s)unknown class.*7 in 2 masks, first rows 'r2', 'r3'.*9 in 1"):
        infer_label_map(scan, classes={0: "a", 1: "b"})


def test_errors_of_inference() -> None:
    with pytest.raises(DataError, match="ignored value 255"):
        _infer(_mask(255), ignore_index=255)
    with pytest.raises(DataError, match=r"needs two values.*found 3: 0, 1, 2"):
        _infer(_mask(0, 1, 2), problem_type="binary")
    with pytest.raises(DataError, match="JPEG"):
        _infer(_mask(*range(20)), problem_type="binary")
    with pytest.raises(ConfigError, match="Did you mean 'binary'"):
        _infer(_mask(0, 1), problem_type="binari")
    for bad in ("255", 1.5, (1, 2), (1, 2, 300)):
        with pytest.raises(ConfigError):
            _infer(_mask(0, 1), ignore_index=bad)
    for bad in ("ab", ["a", "a"], [], {"x": "y"}):
        with pytest.raises(ConfigError):
            _infer(_mask(0, 1), classes=bad)
    with pytest.raises(DataError, match="no masks"):
        infer_label_map(scan_masks([]))


def test_explicit_ignore_and_problem_type() -> None:
    assert _infer(_mask(0, 1, 9), ignore_index=9).values == (0, 1)
    assert _infer(_mask(0, 1, 255), ignore_index=None).values == (0, 1, 255)
    assert _infer(_mask(0, 1), problem_type="multiclass").num_outputs == 2
    assert _infer(_mask(1, 2), problem_type="binary").num_outputs == 1
    colours = np.array([BLACK, RED, (224, 224, 192)], np.uint8)[_mask(0, 1, 2)]
    assert _infer(colours, ignore_index=(224, 224, 192)).values == (BLACK, RED)


def test_the_decision_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "semseg_automl"):
        _infer(_mask(0, 1, 255))
    assert "binary, 2 classes: 0 = background, 1 = foreground; ignored: 255" in caplog.text


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int64", "bool", "rgb"])
def test_counts_against_numpy(kind: str) -> None:
    raw = RNG.integers(0, 2 if kind == "bool" else 5, (30, 40, 3) if kind == "rgb" else (30, 40))
    raw = raw.astype("uint8" if kind == "rgb" else kind)
    values, counts = np.unique(
        raw.reshape(-1, 3) if kind == "rgb" else raw, axis=0 if kind == "rgb" else None, return_counts=True
    )
    expected = {
        tuple(v.tolist()) if kind == "rgb" else int(v): int(n) for v, n in zip(values, counts, strict=True)
    }
    assert count_values(raw) == expected


def test_scan_totals_presence_and_rows() -> None:
    scan = scan_masks([_mask(0, 1), _mask(0), _mask(0, 5)], index=[10, 10, "x"])
    assert scan.pixels == {0: 48, 1: 12, 5: 12} and scan.pictures == {0: 3, 1: 1, 5: 1}
    assert scan.rows_with(5) == ["x"] and len(scan) == 3
    np.testing.assert_array_equal(presence(scan, infer_label_map(scan)), [[1, 1, 0], [1, 0, 0], [1, 0, 1]])


def test_scan_gathers_every_unreadable_mask(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"(?s)unreadable mask \(3\).*'a'.*x\.png.*'b'.*'d'.*whole numbers"):
        scan_masks(
            [tmp_path / "x.png", np.zeros((2, 2, 2)), _mask(0), np.full((2, 2), 0.5)], index=list("abcd")
        )
    with pytest.raises(DataError, match="whole numbers"):
        read_raw_mask(np.full((2, 2), np.nan))


def test_masks_turn_with_their_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = RNG.integers(0, 3, (9, 11), np.uint8)
    Image.fromarray(raw).save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(read_raw_mask(tmp_path / "m.png"), np.rot90(raw, -1))
    label_map = _infer(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", label_map), np.rot90(raw, -1))


def test_decode_refuses_what_it_cant_write() -> None:
    label_map = _infer(_mask(0, 1))
    for bad in (np.array([[2]]), np.array([[-2]]), np.array([[IGNORE]])):
        with pytest.raises(DataError):
            label_map.decode(bad)
    with pytest.raises(ConfigError, match="ignored as well"):
        LabelMap(problem_type="binary", names=("a", "b"), values=(0, 1), ignore=1)
