"""Methods that train other things than q, k, v, from fit to a loaded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from tests.integration.quick import SMALL, tiny


@pytest.mark.parametrize("adapter", ["ssf", "parallel_adapter", "full"])
def test_fit_save_load(adapter: str, textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "fit").fit(
        textures, hyperparameters={**SMALL, "adapter": adapter}, hyperparameter_tune_kwargs=None
    )
    masks = seg.predict(textures)
    seg.save(tmp_path / "saved")
    loaded = SemanticSegmentor.load(tmp_path / "saved")
    for mine, theirs in zip(masks, loaded.predict(textures), strict=True):
        np.testing.assert_array_equal(mine, theirs)
