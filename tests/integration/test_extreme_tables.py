"""Tables at the edge of what can be learned from: each ends in a model whose numbers are finite."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import DataError
from tests.integration.quick import NO_SEARCH, SMALL, relabelled, tiny


def check(seg: SemanticSegmentor, table: pd.DataFrame) -> None:
    """Finite tensors, finite probabilities, masks of the pictures' sizes in known values."""
    state = seg._model.state
    assert all(torch.isfinite(t).all() for part in (state.adapter, state.head) for t in part.values())
    for probability in seg.predict_proba(table):
        assert np.isfinite(probability).all()
        np.testing.assert_allclose(probability.sum(0), 1, atol=1e-4)
    for mask in seg.predict(table):
        assert set(np.unique(mask)) <= set(seg.class_values_)


def test_a_picture_with_nothing_but_ignored_pixels(textures: pd.DataFrame, tmp_path: Path) -> None:
    """In training and in validation; with one picture a step, a whole batch is ignored."""

    def ignored(row: int, mask: np.ndarray) -> np.ndarray:
        return np.full_like(mask, 255) if row in (1, 10) else mask

    table = relabelled(textures, tmp_path / "masks", ignored)
    seg = tiny(tmp_path / "m").fit(
        table[:9],
        tuning_data=table[9:],
        hyperparameters={**SMALL, "batch_size": 1},
        hyperparameter_tune_kwargs=None,
    )
    check(seg, table)
    assert math.isfinite(seg.best_score_) and 255 not in seg.class_values_


@pytest.mark.parametrize("empty", [range(4), range(8)], ids=["half of the pictures", "all pictures"])
def test_batches_of_nothing_but_background(
    binary_textures: pd.DataFrame, tmp_path: Path, empty: range
) -> None:
    def background(row: int, mask: np.ndarray) -> np.ndarray:
        return np.zeros_like(mask) if row in empty else mask

    table = relabelled(binary_textures[:8], tmp_path / "masks", background)
    seg = tiny(tmp_path / "m").fit(
        table, hyperparameters={**SMALL, "batch_size": 1}, hyperparameter_tune_kwargs=None
    )
    check(seg, table)


def test_a_class_that_validation_never_shows(textures: pd.DataFrame, tmp_path: Path) -> None:
    def without(row: int, mask: np.ndarray) -> np.ndarray:
        return np.where(mask == 2, 0, mask).astype(mask.dtype) if row >= 9 else mask

    table = relabelled(textures, tmp_path / "masks", without)
    seg = tiny(tmp_path / "m").fit(table[:9], tuning_data=table[9:], **NO_SEARCH)
    check(seg, table)
    assert seg.n_classes_ == 3 and 0 <= seg.best_score_ <= 1


def test_a_single_training_picture(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(textures[:1], tuning_data=textures[1:2], **NO_SEARCH)
    check(seg, textures[:2])


def test_a_table_of_one_picture(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Nothing can be held out: it is refused in words, or trained and scored on itself with a warning."""
    try:
        seg = tiny(tmp_path / "m").fit(textures[:1], **NO_SEARCH)
    except DataError as error:
        assert "tuning_data" in str(error)
    else:
        check(seg, textures[:1])


def test_pictures_of_one_pixel(tmp_path: Path) -> None:
    images = [np.full((1, 1, 3), 60 * i, np.uint8) for i in range(4)]
    masks = [np.full((1, 1), i % 2, np.uint8) for i in range(4)]
    table = pd.DataFrame({"image": images, "label": masks})
    seg = tiny(tmp_path / "m").fit(table, tuning_data=table, **NO_SEARCH)
    check(seg, table)
    assert seg.predict(images[0]).shape == (1, 1)


@pytest.mark.parametrize(
    ("first", "words"),
    [(0, "Trying again in float32"), (15, "left the range of bf16-mixed. Going on in float32")],
    ids=["at once", "after validations"],
)
def test_an_overflow_in_bfloat16_falls_back_to_float32_and_says_so(
    first: int,
    words: str,
    textures: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The plan is made to choose bfloat16, in which a layer answers with infinity from a step on."""
    from semseg_automl.training import module

    real, calls = module.SegmentationModule.training_step, itertools.count()

    def overflowing(self: module.SegmentationModule, batch: dict, index: int) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu") and next(calls) >= first:
            batch = {**batch, "image": batch["image"] * torch.inf}
        return real(self, batch, index)

    monkeypatch.setattr(module.SegmentationModule, "training_step", overflowing)
    _plan_bfloat16(monkeypatch)
    hyper = {**SMALL, "max_epochs": 4, "batch_size": 2}  # 20 steps
    seg = tiny(tmp_path / "m", verbosity=1).fit(
        textures, hyperparameters=hyper, hyperparameter_tune_kwargs=None
    )
    assert words in caplog.text
    check(seg, textures)
    summary = seg.fit_summary(show=False)
    assert summary["state"] == "finished" and summary["steps"] == 20
    assert seg.leaderboard().set_index("model").loc["default", "reason"] in caplog.text


def _plan_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what the probe found, and bfloat16 for the training."""
    import dataclasses

    from semseg_automl.search import run

    real = run.plan_fit

    def planned(*arguments: object) -> object:
        plan, job = real(*arguments)
        return plan, dataclasses.replace(job, precision="bf16-mixed")

    monkeypatch.setattr(run, "plan_fit", planned)
