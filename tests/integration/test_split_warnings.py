"""What fit says about a split before it trains."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.estimator._tables import Tables, prepare_tables


def prepared(table: pd.DataFrame, **options: object) -> Tables:
    common = {"image": "image", "label": "label", "classes": None, "problem_type": None}
    rest = {"ignore_index": "auto", "groups": None, "holdout_frac": None, "seed": 0, "tuning_data": None}
    return prepare_tables(table, None, **{**rest, **options}, **common)  # type: ignore[arg-type]


def test_near_duplicates_across_the_split_are_warned_of(
    textures: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copies = textures.copy()
    for i, path in enumerate(textures["image"]):
        copies.loc[i, "image"] = str(tmp_path / f"{i}.jpg")
        Image.open(path).convert("RGB").save(copies.loc[i, "image"], quality=92)
    table = pd.concat([textures, copies], ignore_index=True)
    with caplog.at_level(logging.WARNING, "semseg_automl"):
        tables = prepared(table)
        assert "validation pictures nearly equal a training picture" in caplog.text
        assert "pass groups=" in caplog.text
        caplog.clear()
        prepared(table, groups=np.tile(np.arange(12), 2))  # a picture and its copy stay together
        assert "nearly equal" not in caplog.text
        prepared(textures[:6], tuning_data=copies[6:])
        assert "nearly equal" not in caplog.text
        prepared(textures[:6], tuning_data=copies[5:])
        assert (
            f"1 of 7 validation pictures nearly equal a training picture, such as rows {5!r} and {5!r}"
            in (caplog.text)
        )
    assert len(tables.train) + len(tables.val) == 24


def test_a_class_that_one_picture_shows_is_named(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 20, 3), np.uint8) for _ in range(12)]
    masks = [np.repeat([[0], [1]], 10, axis=0).repeat(20, axis=1).astype(np.uint8) for _ in pictures]
    masks[4][:3] = 2
    with caplog.at_level(logging.WARNING, "semseg_automl"):
        tables = prepared(pd.DataFrame({"image": pictures, "label": masks}))
    assert "Not in the validation pictures: 2. More pictures that show them are needed." in caplog.text
    assert 4 in tables.train.index


def test_groups_may_be_tuples_and_a_wrong_share_is_told_before_a_mask_is_read(textures: pd.DataFrame) -> None:
    groups = [("patient", i // 2) for i in range(12)]
    tables = prepared(textures, groups=groups)
    sides = [{groups[i] for i in part.index} for part in (tables.train, tables.val)]
    assert sides[0].isdisjoint(sides[1]) and len(tables.train) + len(tables.val) == 12
    wrapped = prepared(textures, groups=[[i // 2] for i in range(12)])
    assert len(wrapped.train) + len(wrapped.val) == 12
    with pytest.raises(DataError, match="row 0 is a dict"):
        prepared(textures, groups=[{}] * 12)
    assert len(prepared(textures[:6], tuning_data=textures[6:], holdout_frac=0).val) == 6  # not used
    broken = textures.assign(label="gone.png")
    with pytest.raises(ConfigError, match="holdout_frac"):
        prepared(broken, holdout_frac=5)
