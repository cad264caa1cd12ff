"""The smallest fits that are real: the test backbone, 64-pixel pictures, one epoch, no search."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl import SemanticSegmentor

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"max_epochs": 1, "image_size": 64, "num_experts": 2, "rank": 4}
NO_SEARCH: dict[str, Any] = {"hyperparameters": SMALL, "hyperparameter_tune_kwargs": None}


def tiny(path: Path | None = None, **arguments: Any) -> SemanticSegmentor:
    """An unfitted, silent segmentor on the test backbone."""
    return SemanticSegmentor(**{"backbone": "sam_tiny", "verbosity": 0, "path": path, **arguments})


def relabelled(
    table: pd.DataFrame, folder: Path, change: Callable[[int, np.ndarray], np.ndarray]
) -> pd.DataFrame:
    """A copy of a table whose masks are ``change(row number, mask)``, written as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, path in enumerate(table["label"]):
        paths.append(str(folder / f"{i:03d}.png"))
        Image.fromarray(change(i, np.array(Image.open(path)))).save(paths[-1])
    return table.assign(label=paths)


def python(code: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=timeout
    )
