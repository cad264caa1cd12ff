"""Large pictures through the estimator: what is stored, what the choice of tiles does to the answers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ConfigError


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (170, 330, 3), np.uint8)).save(path)
    return str(path)


def test_a_model_knows_its_training_pictures(multiclass: SemanticSegmentor) -> None:
    loaded = SemanticSegmentor.load(multiclass.path_, verbosity=0)
    assert loaded._model.info["train_pictures"] == {"median": [64, 80], "longest": 80}


def test_auto_cuts_large_pictures_and_says_so(
    multiclass: SemanticSegmentor, large: str, caplog: pytest.LogCaptureFixture
) -> None:
    seg = SemanticSegmentor.load(multiclass.path_)
    found, whole = seg.predict_proba(large), seg.predict_proba(large, tile=None)
    assert found.shape == whole.shape == (3, 170, 330) and not np.array_equal(found, whole)
    np.testing.assert_array_equal(seg.predict_proba(large, tile=64), found)  # the model's size is 64
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="semseg_automl"):
        mask = seg.predict(large)
    assert caplog.text.count("1 of 1 pictures are predicted in tiles, over 2 times as long as any") == 1
    np.testing.assert_array_equal(mask, found.argmax(0).astype(mask.dtype))
    assert np.shape(mask) == (170, 330)


def test_training_pictures_are_seen_as_before(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    auto, whole = multiclass.predict_proba(textures), multiclass.predict_proba(textures, tile=None)
    assert all(np.array_equal(a, b) for a, b in zip(auto, whole, strict=True))
    assert multiclass.evaluate(textures) == multiclass.evaluate(textures, tile=None)
    assert 0 <= multiclass.evaluate(textures, tile=32, tile_overlap=0.5)["mean_iou"] <= 1


def test_files_of_other_tiles_are_replaced(multiclass: SemanticSegmentor, large: str, tmp_path: Path) -> None:
    for options in ({"tile": None}, {"tile": 96, "tile_overlap": 0.5}, {}):
        file = multiclass.predict(large, output_dir=tmp_path, **options)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), multiclass.predict(large, **options))


@pytest.mark.parametrize("options", [{"tile": "all"}, {"tile": 0}, {"tile_overlap": 1}])
def test_wrong_arguments(multiclass: SemanticSegmentor, large: str, options: dict[str, object]) -> None:
    for call in (multiclass.predict, multiclass.predict_proba, multiclass.evaluate):
        with pytest.raises(ConfigError, match="tile"):
            call(large, **options)
