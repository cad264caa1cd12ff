"""An augmentation of the user's own, from fit to a stored model; and crops around classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torchvision.transforms import v2

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ConfigError
from tests.integration.quick import SMALL, tiny


def darken(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Used by the test below, and counts its calls."""
    darken.calls += 1  # type: ignore[attr-defined]
    return (image * rng.uniform(0.5, 1.0)).astype(np.uint8), mask


def fitted(table: pd.DataFrame, path: Path, **hyperparameters: object) -> SemanticSegmentor:
    return tiny(path).fit(
        table, hyperparameters={**SMALL, **hyperparameters}, hyperparameter_tune_kwargs=None, num_workers=0
    )


@pytest.mark.parametrize("own", [darken, v2.RandomHorizontalFlip(0.5)], ids=["function", "transform"])
def test_it_is_used_and_its_name_is_kept(own: object, textures: pd.DataFrame, tmp_path: Path) -> None:
    darken.calls = 0  # type: ignore[attr-defined]
    seg = fitted(textures, tmp_path / "m", augment=own)
    assert (darken.calls > 0) == (own is darken)  # type: ignore[attr-defined]
    name = "darken" if own is darken else "RandomHorizontalFlip"
    loaded = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert seg.best_config_["augment"] == loaded.best_config_["augment"] == f"own: {name}"
    first = seg.predict(textures[:2], output_dir=tmp_path / "out")
    before = [Path(p).stat().st_mtime_ns for p in first]
    again = loaded.predict(textures[:2], output_dir=tmp_path / "out")
    assert [Path(p).stat().st_mtime_ns for p in again] == before
    for wrong, says in (
        (3, "Known: aerial"),
        (["light", own], "no choice of a search"),
        (f"own: {name}", "itself"),
    ):
        with pytest.raises(ConfigError, match=says):
            tiny(tmp_path / "n").fit(textures, hyperparameters={"augment": wrong})


def test_crops_around_classes_are_trained_on(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = fitted(textures, tmp_path / "m", class_crops=0.5, crop_size=32)
    assert seg.best_config_["class_crops"] == 0.5
    for wrong in (-0.1, 1.5, "half"):
        with pytest.raises(ConfigError, match="class_crops"):
            fitted(textures, tmp_path / "n", class_crops=wrong)
