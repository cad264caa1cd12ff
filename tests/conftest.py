"""Threads, skips that say why, and a little data set that every room may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import pandas as pd

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # also for child processes, before they import torch
os.environ.setdefault("MPLBACKEND", "Agg")

FOLDERS = {"weights": "SEMSEG_AUTOML_WEIGHTS", "data": "SEMSEG_AUTOML_DATA"}


def _missing(variable: str) -> str | None:
    """Why the folder that a variable names can't be used, or None."""
    folder = os.environ.get(variable)
    if not folder:
        return f"${variable} is not set"
    return None if Path(folder).is_dir() else f"${variable} names no folder: {folder}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real weights or data run where their folder is known; elsewhere the report says why not."""
    for marker, variable in FOLDERS.items():
        reason = _missing(variable)
        for item in items:
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))  # optional inputs: see CONTRIBUTING


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Give torch back its two threads, where a test before has loaded it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)
    yield


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """Folder of real weights; for tests marked ``weights``."""
    return Path(os.environ["SEMSEG_AUTOML_WEIGHTS"])


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data sets; for tests marked ``data``."""
    return Path(os.environ["SEMSEG_AUTOML_DATA"])


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Twelve generated pictures of 64 x 80 pixels with three classes; columns image, label (read only)."""
    from semseg_automl.data.datasets import make_textures

    return make_textures(tmp_path_factory.mktemp("textures"), n=12, size=(64, 80), n_classes=3, seed=0)


@pytest.fixture(scope="session")
def binary_textures(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Twelve generated pictures of 64 x 80 pixels with two classes; columns image, label (read only)."""
    from semseg_automl.data.datasets import make_textures

    return make_textures(tmp_path_factory.mktemp("binary"), n=12, size=(64, 80), n_classes=2, seed=0)
