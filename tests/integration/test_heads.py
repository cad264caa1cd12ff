"""Both heads learn generated pictures with ignored pixels and no background class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.integration.quick import relabelled, tiny

HYPERPARAMETERS = {
    "adapter": "lora",
    "rank": 4,
    "image_size": 64,
    "learning_rate": 3e-3,
    "decoder_learning_rate": 3e-3,
    "max_epochs": 25,
    "ema_decay": 0.0,
}


def _framed(_row: int, mask: np.ndarray) -> np.ndarray:
    """A frame of ignored pixels, as label tools leave it."""
    mask[:6], mask[-6:], mask[:, :6], mask[:, -6:] = 255, 255, 255, 255
    return mask


@pytest.mark.parametrize("head", ["semantic", "mask_classification"])
def test_heads_beat_the_majority_class(head: str, textures: pd.DataFrame, tmp_path: Path) -> None:
    table = relabelled(textures, tmp_path / "masks", _framed)
    seg = tiny(tmp_path / head, problem_type="multiclass").fit(
        table,
        hyperparameters={**HYPERPARAMETERS, "head": head, "num_queries": 5},
        hyperparameter_tune_kwargs=None,
    )
    assert len(seg.classes_) == 3 and seg.class_values_ == [0, 1, 2]  # 255 is no class
    board = seg.leaderboard().set_index("model")
    majority = board.loc[board.index.str.contains("majority")]["score_val"].max()
    assert seg.best_score_ > majority
    assert set(np.unique(seg.predict(table).iloc[0])) <= {0, 1, 2}
