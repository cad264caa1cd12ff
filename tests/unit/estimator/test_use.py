"""What counts as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.estimator._use import is_single


@pytest.mark.parametrize(
    ("data", "single"),
    [
        ("picture.png", True),
        (Path("picture.TIF"), True),
        ("table.csv", False),
        (Path("TABLE.TSV"), False),
        (np.zeros((4, 5)), True),
        (np.zeros((4, 5, 3)), True),
        (np.zeros((2, 4, 5, 3)), False),
        (np.array(["a.png", "b.png"]), False),
        (np.array([np.zeros((2, 2))], dtype=object), False),
        (Image.new("L", (2, 2)), True),
        (["a.png"], False),
        (pd.Series(["a.png"]), False),
        (pd.DataFrame({"image": ["a.png"]}), False),
    ],
)
def test_one_picture_or_many(data: Any, single: bool) -> None:
    assert is_single(data) == single
