"""Generated scenes: what is in them, and that a picture depends on its seed and number alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.datasets import make_aerial, make_cells

Maker = Callable[..., pd.DataFrame]


def _pixels(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([np.asarray(Image.open(p)) for p in table.image])
    return images, np.stack([np.asarray(Image.open(p)) for p in table.label])


def test_cells_are_a_tenth_of_the_picture_and_darker_than_tissue(tmp_path: Path) -> None:
    images, masks = _pixels(make_cells(tmp_path / "new" / "folder", n=4))
    assert images.shape == (4, 192, 256, 3) and images.dtype == masks.dtype == np.uint8
    assert list(np.unique(masks)) == [0, 1] and 0.05 < masks.mean() < 0.25
    for image, mask in zip(images, masks, strict=True):
        assert image[mask == 1].mean() + 40 < image[mask == 0].mean()


def test_land_has_five_classes_of_which_two_are_rare(tmp_path: Path) -> None:
    _, masks = _pixels(make_aerial(tmp_path, n=6))
    shares = np.bincount(masks.ravel(), minlength=5) / masks.size
    assert masks.shape == (6, 256, 256) and len(shares) == 5
    assert shares[0] > 0.4 and shares[1] > 0.1 and shares[2] > 0.02
    assert 0.01 < shares[3] < 0.08 and 0.003 < shares[4] < 0.04


@pytest.mark.parametrize("make", [make_cells, make_aerial])
def test_a_picture_depends_on_seed_and_number_alone(make: Maker, tmp_path: Path) -> None:
    few, many = make(tmp_path / "a", n=1, size=(64, 80)), make(tmp_path / "b", n=2, size=(64, 80))
    for column in ("image", "label"):
        first, again = Path(few[column][0]).read_bytes(), Path(many[column][0]).read_bytes()
        assert first == again != Path(many[column][1]).read_bytes()
    other = make(tmp_path / "c", n=1, size=(64, 80), seed=1)
    assert Path(other.image[0]).read_bytes() != Path(few.image[0]).read_bytes()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"size": (63, 80)}])
def test_what_can_not_be_drawn_is_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make_cells needs n >= 1 and sides >= 64"):
        make_cells(tmp_path, **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
