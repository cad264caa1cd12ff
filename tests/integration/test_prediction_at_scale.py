"""predict(output_dir=...) on a table as it comes: pictures that can't be read, shards, views."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ConfigError, DataError


def test_it_goes_on_past_pictures_that_can_not_be_read(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    table = pd.DataFrame(
        {"image": [textures["image"][0], tmp_path / "broken.png", textures["image"][1], tmp_path / "no.png"]},
        index=list("abcd"),
    )
    seg = SemanticSegmentor.load(multiclass.path_)
    with caplog.at_level(logging.INFO, "semseg_automl"):
        paths = seg.predict(table, output_dir=tmp_path / "out")
    assert list(paths.index) == list("abcd") and [p is None for p in paths] == [False, True, False, True]
    assert "2 of 4 pictures can't be read" in caplog.text and "broken.png" in caplog.text
    assert "2 masks written in" in caplog.text and "pictures and" in caplog.text
    for row in "ac":
        mask = seg.predict(table["image"][row])
        np.testing.assert_array_equal(np.asarray(Image.open(paths[row])), mask)
    with pytest.raises(DataError, match=r"broken\.png"):  # without files there is nothing to go on with
        seg.predict(table)
    with pytest.raises(DataError, match=r"no\.png"):
        seg.predict(str(tmp_path / "no.png"), output_dir=tmp_path / "out")


def test_shards_make_the_files_of_the_whole(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    whole = multiclass.predict(textures, output_dir=tmp_path / "whole")
    parts = [multiclass.predict(textures, output_dir=tmp_path / "parts", shard=(i, 5)) for i in range(5)]
    assert [len(p) for p in parts] == [3, 3, 2, 2, 2] and list(parts[1].index) == [1, 6, 11]
    joined = pd.concat(parts).sort_index()
    for one, two in zip(whole, joined, strict=True):
        assert Path(one).name == Path(two).name and Path(one).read_bytes() == Path(two).read_bytes()
    one = textures["image"].iloc[0]
    alone = [multiclass.predict(one, output_dir=tmp_path / "one", shard=(i, 2)) for i in range(2)]
    assert Path(alone[0]).is_file() and alone[1] is None  # a picture that is another shard's
    for wrong in ({"shard": (5, 5), "output_dir": tmp_path}, {"shard": (0, 2)}):
        with pytest.raises(ConfigError, match="shard"):
            multiclass.predict(textures, **wrong)


def test_views_are_part_of_what_makes_a_mask(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    pair = textures[:2]
    for tta in (False, "flips_and_scales", {"scales": [0.5, 1]}):
        paths = multiclass.predict(pair, output_dir=tmp_path, tta=tta)
        expected = multiclass.predict(pair, tta=tta)
        assert all(np.array_equal(np.asarray(Image.open(p)), m) for p, m in zip(paths, expected, strict=True))
    mirrored = multiclass.predict_proba(pair)  # the preset's choice
    assert all(map(np.array_equal, mirrored, multiclass.predict_proba(pair, tta="mirror")))
    assert multiclass.evaluate(pair) == multiclass.evaluate(pair, tta=True)
    assert set(multiclass.evaluate(pair, tta="flips")) == set(multiclass.evaluate(pair))
    with pytest.raises(ConfigError, match="Did you mean 'flips'"):
        multiclass.predict(pair, tta="flip")


def test_mixed_and_extreme_sizes_in_one_table(multiclass: SemanticSegmentor, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 500), (700, 2), (64, 80), (31, 33), (15, 16), (300, 170)]
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    for options in ({}, {"tile": 48, "tile_overlap": 0.5}, {"tta": "flips_and_scales"}):
        masks = multiclass.predict(pictures, **options)
        assert [m.shape for m in masks] == sizes
    paths = multiclass.predict(pictures, output_dir=tmp_path)
    assert [Image.open(p).size[::-1] for p in paths] == sizes
    assert len(os.listdir(tmp_path)) == len(sizes) + 1
