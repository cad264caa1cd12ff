"""Models that many tests only look at, fitted once."""

from __future__ import annotations

import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from tests.integration.quick import NO_SEARCH, tiny


@pytest.fixture(scope="session")
def multiclass(tmp_path_factory: pytest.TempPathFactory, textures: pd.DataFrame) -> SemanticSegmentor:
    """Fitted on ``textures`` (read only)."""
    return tiny(tmp_path_factory.mktemp("multiclass") / "model").fit(textures, **NO_SEARCH)


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory, binary_textures: pd.DataFrame) -> SemanticSegmentor:
    """Fitted on ``binary_textures`` (read only)."""
    return tiny(tmp_path_factory.mktemp("binary") / "model").fit(binary_textures, **NO_SEARCH)


@pytest.fixture(scope="session")
def mixed_sizes(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Six pictures of three sizes, three classes."""
    from semseg_automl.data.datasets import make_textures

    folder, parts = tmp_path_factory.mktemp("mixed"), []
    for k, size in enumerate([(64, 80), (48, 96), (72, 40)]):
        parts.append(make_textures(folder / str(k), n=2, size=size, n_classes=3, seed=k))
    return pd.concat(parts, ignore_index=True)
