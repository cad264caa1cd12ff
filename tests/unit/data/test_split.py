"""The split: sizes, rare classes, groups, determinism."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.frame import Samples
from semseg_automl.data.masks import scan_masks
from semseg_automl.data.split import split_samples


def _samples(n: int) -> Samples:
    return Samples(images=("x",) * n, masks=("y",) * n, sizes=((4, 4),) * n, index=pd.RangeIndex(n))


def _split(found: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return split_samples(_samples(len(found)), found, seed=options.pop("seed", 0), **options)


@pytest.mark.parametrize(
    ("n", "expected"), [(2, 1), (3, 1), (5, 1), (10, 2), (40, 6), (367, 55), (5000, 200)]
)
def test_sizes_and_completeness(n: int, expected: int) -> None:
    train, val = _split(np.ones((n, 2), bool))
    assert len(val) == expected
    assert (
        sorted([*train, *val]) == list(range(n)) and (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    )


def test_one_picture_is_both_sides_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "semseg_automl"):
        train, val = _split(np.ones((1, 2), bool))
    assert list(train) == list(val) == [0] and "One picture only" in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_rare_classes_stay_in_training_and_shared_ones_reach_validation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = np.zeros((40, 5), bool)
    found[:, 0] = True
    for k, count in ((1, 1), (2, 2), (3, 4), (4, 15)):
        found[rng.choice(40, count, replace=False), k] = True
    train, val = _split(found, seed=seed)
    assert found[train].any(0).all()
    assert found[train, 1].sum() == 1 and found[train, 2].sum() >= 1
    assert found[val, 3].sum() >= 1 and found[val, 4].sum() >= 1
    assert len(val) == 6


@pytest.mark.parametrize("seed", range(20))
def test_every_class_of_two_pictures_is_on_both_sides(seed: int) -> None:
    """Scattered classes: ten pictures of which each shows two of five classes."""
    found = np.zeros((10, 5), bool)
    for k in range(5):
        found[[2 * k, (2 * k + 3) % 10], k] = True
    train, val = _split(found, seed=seed)
    assert found[train].any(0).all() and found[val].any(0).all()
    assert len(val) <= 5


def test_validation_grows_only_where_classes_need_it() -> None:
    found = np.zeros((100, 3), bool)
    found[:, 0] = True
    found[:10, 1] = found[5:20, 2] = True
    assert len(_split(found, holdout_frac=0.02)[1]) == 2
    found = np.repeat(np.eye(10, dtype=bool), 4, axis=0)  # forty pictures of one class each
    train, val = _split(found, holdout_frac=0.1)
    assert len(val) == 10 and found[train].sum(0).min() == 3


def test_the_picture_that_shows_most_missing_classes_is_preferred() -> None:
    found = np.zeros((40, 4), bool)
    found[:36, 0] = True
    found[0:8, 1] = found[4:12, 2] = found[6:14, 3] = True  # 6 and 7 show all four
    for seed in range(10):
        _, val = _split(found, holdout_frac=0.025, seed=seed)
        assert len(val) == 1 and val[0] in (6, 7)


@pytest.mark.parametrize("seed", range(10))
def test_classes_are_covered_by_whole_groups(seed: int) -> None:
    groups = np.repeat(np.arange(20), 5)
    found = np.zeros((100, 4), bool)
    for k in range(4):
        found[np.isin(groups, [5 * k, 5 * k + 1]), k] = True
    train, val = _split(found, groups=groups, seed=seed, holdout_frac=0.05)
    assert found[train].any(0).all() and found[val].any(0).all()
    assert not set(groups[train]) & set(groups[val]) and len(val) == 20


def test_every_picture_holding_its_own_class_still_leaves_validation() -> None:
    train, val = _split(np.eye(6, dtype=bool))
    assert len(val) >= 1 and len(train) + len(val) == 6


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 12, 80)
    train, val = _split(
        np.ones((80, 2), bool), groups=pd.Series(groups).map(lambda g: f"video{g}"), seed=seed
    )
    assert not set(groups[train]) & set(groups[val]) and 1 <= len(val) <= 12 and len(train) + len(val) == 80


def test_equal_labels_are_one_group_whatever_their_type() -> None:
    groups = [1, np.int64(1), 1.0, 2, 2, 2]
    train, val = _split(np.ones((6, 1), bool), groups=groups)
    assert {tuple(train), tuple(val)} == {(0, 1, 2), (3, 4, 5)}


def test_two_unequal_groups_and_a_single_one(caplog: pytest.LogCaptureFixture) -> None:
    groups = np.array(["a"] * 9 + ["b"])
    train, val = _split(np.ones((10, 1), bool), groups=groups)
    assert list(val) == [9]
    train, val = _split(np.ones((10, 1), bool), groups=np.array(["a"] * 6 + ["b"] * 4))
    assert list(val) == [6, 7, 8, 9]  # both larger than wanted: the smaller
    with caplog.at_level(logging.WARNING, "semseg_automl"):
        train, val = _split(np.ones((10, 1), bool), groups=["a"] * 10)
    assert len(train) == len(val) == 10 and "One group only" in caplog.text


def test_same_seed_same_split_other_seed_other_split() -> None:
    found = np.ones((100, 2), bool)
    first, again, other = (_split(found, seed=s)[1] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert list(first) != list(other)


def test_holdout_frac_and_errors() -> None:
    found = np.ones((10, 1), bool)
    assert len(_split(found, holdout_frac=0.5)[1]) == 5 and len(_split(found, holdout_frac=0.99)[0]) == 1
    for bad in (0.0, 1.0, -1, 2, "0.2", True, float("nan")):
        with pytest.raises(ConfigError, match="holdout_frac"):
            _split(found, holdout_frac=bad)
    with pytest.raises(DataError, match="3 labels for 10"):
        _split(found, groups=[1, 2, 3])
    for empty in (None, np.nan, pd.NA):
        with pytest.raises(DataError, match="empty cells, the first at position 4"):
            _split(found, groups=[1, 2, 1, 2, empty, 1, 2, 1, 2, 1])


def test_takes_a_scan() -> None:
    scan = scan_masks([np.full((2, 2), i % 2, np.uint8) for i in range(20)])
    _, val = split_samples(_samples(20), scan, seed=0)
    assert {i % 2 for i in val} == {0, 1}


def test_many_pictures_are_split_quickly() -> None:
    found = np.random.default_rng(0).random((20000, 20)) < 0.2
    start = time.perf_counter()
    _split(found)
    assert time.perf_counter() - start < 2.0
