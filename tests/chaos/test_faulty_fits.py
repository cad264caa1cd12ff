"""A fault at a random moment of a fit ends in a usable model, or in an error that says what is kept where."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.data.datasets import make_textures
from tests.chaos.apart import figures_of
from tests.chaos.faulty_fits import HYPER
from tests.chaos.figures import keep
from tests.integration.quick import tiny

Patch = pytest.MonkeyPatch


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Six pictures of its own for each test."""
    return make_textures(tmp_path / "pictures", n=6, size=(64, 64), n_classes=3, seed=0)


def fit_with_faults(count: int, seed: int, timeout: float) -> dict[str, Any]:
    found = figures_of("tests.chaos.faulty_fits", count, seed, timeout)
    assert sum(found["endings"].values()) == len(found["fits"]) == count
    return found


def test_one_fault_of_each_kind() -> None:
    fit_with_faults(6, seed=1, timeout=600)


@pytest.mark.chaos
def test_fifty_faults() -> None:
    found = fit_with_faults(50, seed=2, timeout=3600)
    keep("faulty_fits", found)
    assert any(": a model" in ending for ending in found["endings"])  # not every fault ends a fit
    assert any(": an error" in ending for ending in found["endings"])


def test_a_disk_that_stays_full_leaves_the_model_in_memory_and_says_so(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("current.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    seg = tiny(tmp_path / "m", verbosity=1).fit(table, hyperparameters=HYPER, hyperparameter_tune_kwargs=None)
    assert "No space left on device" in caplog.text and "call save(path)" in caplog.text
    monkeypatch.undo()
    assert len(SemanticSegmentor.load(seg.save(tmp_path / "other"), verbosity=0).predict(table)) == 6


def test_a_disk_that_has_room_again_at_the_end_gets_the_model(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = os.replace, itertools.count()

    def full_once(source: Any, target: Any) -> None:
        if Path(target).name.startswith("v-") and next(calls) == 0:  # the model's first version
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full_once)
    seg = tiny(tmp_path / "m", verbosity=1).fit(table, hyperparameters=HYPER, hyperparameter_tune_kwargs=None)
    assert "tries again at its end" in caplog.text and seg.path_ == tmp_path / "m"
    assert len(SemanticSegmentor.load(tmp_path / "m", verbosity=0).predict(table)) == 6
