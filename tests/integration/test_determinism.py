"""The same seed gives the same model, bit by bit, however the pictures are read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from tests.integration.quick import SMALL, tiny

# three epochs of small batches: order and augmentation matter; the gates draw noise
HYPER = {**SMALL, "max_epochs": 2, "batch_size": 2, "augment": "medium", "adapter": "conv_lora"}


def fit(table: pd.DataFrame, path: Path, workers: int) -> SemanticSegmentor:
    return tiny(path).fit(
        table, hyperparameters=HYPER, hyperparameter_tune_kwargs=None, num_workers=workers, devices="cpu"
    )


def same(first: SemanticSegmentor, second: SemanticSegmentor) -> bool:
    old, new = first._model.state, second._model.state
    pairs = [(old.adapter, new.adapter), (old.head, new.head)]
    return all(a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a) for a, b in pairs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, textures: pd.DataFrame) -> SemanticSegmentor:
    """Fitted with pictures read in this process."""
    return fit(textures, tmp_path_factory.mktemp("alone") / "m", 0)


def test_two_processes_that_read_change_nothing(
    alone: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    assert same(alone, fit(textures, tmp_path / "m", 2))


@pytest.mark.slow
def test_one_process_that_reads_changes_nothing(
    alone: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    assert same(alone, fit(textures, tmp_path / "m", 1))
