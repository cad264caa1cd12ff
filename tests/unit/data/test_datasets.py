"""The generated problem must be a problem, and one that can be solved; folders are paired once."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.datasets import from_folders, make_textures


def _pixels(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([np.asarray(Image.open(p)) for p in table.image])
    return images, np.stack([np.asarray(Image.open(p)) for p in table.label])


def test_files_values_and_shares(tmp_path: Path) -> None:
    images, masks = _pixels(make_textures(tmp_path / "new" / "folder", n=8, seed=0))
    assert images.shape == (8, 192, 256, 3) and masks.shape == (8, 192, 256) and masks.dtype == np.uint8
    shares = np.bincount(masks.ravel(), minlength=4) / masks.size
    assert shares.shape == (4,) and 0.25 < shares[0] < 0.75 and 0.25 < shares[1] < 0.75
    assert 0.005 < shares[2] < 0.05 and 0.003 < shares[3] < 0.04


@pytest.mark.parametrize("n_classes", range(2, 9))
def test_every_class_occurs(tmp_path: Path, n_classes: int) -> None:
    _, masks = _pixels(make_textures(tmp_path, n=3, size=(96, 128), n_classes=n_classes))
    assert list(np.unique(masks)) == list(range(n_classes))


def test_picture_i_depends_on_seed_and_i_only(tmp_path: Path) -> None:
    few, many = (
        make_textures(tmp_path / "a", n=2, size=(48, 64)),
        make_textures(tmp_path / "b", n=3, size=(48, 64)),
    )
    for column in ("image", "label"):
        assert [Path(p).read_bytes() for p in few[column]] == [Path(p).read_bytes() for p in many[column][:2]]
    other = make_textures(tmp_path / "c", n=2, size=(48, 64), seed=1)
    assert Path(other.image[0]).read_bytes() != Path(few.image[0]).read_bytes()
    assert Path(few.image[0]).read_bytes() != Path(few.image[1]).read_bytes()


def _mean_iou(truth: np.ndarray, guess: np.ndarray, k: int) -> float:
    return float(
        np.mean([((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in range(k)])
    )


def _structure(images: np.ndarray) -> np.ndarray:
    """Colour plus differences to neighbours at several distances and directions, pooled (N, H, W, F)."""
    from scipy.ndimage import gaussian_filter

    grey = images.mean(-1)
    light = np.stack([gaussian_filter(g, 12.0) for g in grey])
    flat = grey / light
    features = [flat]
    for sigma in (1.0, 2.5, 5.0):
        smooth = np.stack([gaussian_filter(g, sigma) for g in flat])
        spread = np.stack([gaussian_filter(d, 5.0) for d in (flat - smooth) ** 2])
        features += [smooth, flat - smooth, np.sqrt(spread)]
    return np.stack(features, -1)


def _forest_score(features: np.ndarray, masks: np.ndarray, weight: str | None) -> float:
    """Mean IoU on the last pictures of a random forest over single pixels of the first ten."""
    from sklearn.ensemble import RandomForestClassifier

    train, test = (part.reshape(-1, features.shape[-1]) for part in (features[:10], features[10:]))
    picks = np.random.default_rng(0).choice(len(train), 12000, replace=False)
    model = RandomForestClassifier(20, max_depth=12, min_samples_leaf=5, random_state=0, class_weight=weight)
    model.fit(train[picks], masks[:10].ravel()[picks])
    return _mean_iou(masks[10:].ravel(), model.predict(test), 4)


def test_colour_does_not_solve_it_but_structure_helps(tmp_path: Path) -> None:
    images, masks = _pixels(make_textures(tmp_path, n=14, size=(96, 128), seed=0))
    colour = max(_forest_score(images.astype(float), masks, w) for w in (None, "balanced_subsample"))
    structure = _forest_score(_structure(images), masks, "balanced_subsample")
    print(f"colour {colour:.3f}, structure {structure:.3f}")
    assert colour < 0.35 and structure > colour + 0.1
    assert structure < 0.75  # features of single pixels are not enough either


def test_bad_arguments(tmp_path: Path) -> None:
    for bad in ({"n": 0}, {"size": (8, 64)}, {"n_classes": 1}, {"n_classes": 9}):
        with pytest.raises(ConfigError, match="make_textures needs"):
            make_textures(tmp_path, **bad)  # type: ignore[arg-type]


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_folders_are_paired_by_name(tmp_path: Path) -> None:
    _touch(*(tmp_path / "i" / n for n in ("b.jpg", "a.JPG", "sub/c.tif", "Thumbs.db")))
    _touch(*(tmp_path / "m" / n for n in ("a.png", "b.png", "sub/c.png")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = from_folders(tmp_path / "i", tmp_path / "m")
    assert [Path(p).name for p in table.image] == ["a.JPG", "b.jpg", "c.tif"]
    assert [Path(p).name for p in table.label] == ["a.png", "b.png", "c.png"]


def test_unpaired_files_are_named_in_one_warning(tmp_path: Path) -> None:
    _touch(*(tmp_path / "i" / f"{n}.jpg" for n in "abc"), *(tmp_path / "m" / f"{n}.png" for n in "bcd"))
    with pytest.warns(UserWarning) as caught:
        assert len(from_folders(tmp_path / "i", tmp_path / "m")) == 2
    assert len(caught) == 1
    assert "1 pictures without a mask: a; 1 masks without a picture: d" in str(caught[0].message)


def test_suffix_and_one_folder_for_both(tmp_path: Path) -> None:
    _touch(*(tmp_path / f"{n}.jpg" for n in "ab"), *(tmp_path / f"{n}_mask.png" for n in "ab"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = from_folders(tmp_path, tmp_path, suffix="_mask")
    assert [Path(p).name for p in table.label] == ["a_mask.png", "b_mask.png"]
    with pytest.raises(DataError, match="suffix="):
        from_folders(tmp_path, tmp_path)


def test_folder_errors(tmp_path: Path) -> None:
    _touch(
        tmp_path / "i" / "a.jpg",
        tmp_path / "m" / "a_gt.png",
        tmp_path / "two" / "a.jpg",
        tmp_path / "two" / "a.png",
    )
    with pytest.raises(DataError, match="Did you mean suffix='_gt'"):
        from_folders(tmp_path / "i", tmp_path / "m")
    with pytest.raises(DataError, match="Two files have the name 'a'"):
        from_folders(tmp_path / "i", tmp_path / "two")
    with pytest.raises(DataError, match="no such folder"):
        from_folders(tmp_path / "i", tmp_path / "gone")


def test_no_torch_is_loaded() -> None:
    rooms = ", ".join(f"semseg_automl.data.{m}" for m in ("datasets", "labels", "frame", "images", "split"))
    code = f"import sys, {rooms}; sys.exit(any(m in sys.modules for m in ('torch', 'lightning', 'optuna')))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode
        == 0
    )
