"""Pictures of thousands of pixels with thin things: training sees windows, prediction tiles."""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.estimator import _windows
from semseg_automl.estimator._tables import Tables, prepare_tables
from semseg_automl.estimator._windows import cut_large_pictures
from semseg_automl.search.facts import fingerprint
from semseg_automl.search.planner import Fingerprint
from semseg_automl.search.run_folder import PLAN, RunFolder
from tests.integration.quick import tiny

SIZE = (160, 2200)


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Five long pictures of dark wires, two pixels thick: at 1024 pixels they would be one."""
    folder = tmp_path_factory.mktemp("wires")
    rows = []
    for i in range(5):
        rng = np.random.default_rng(i)
        mask = np.zeros(SIZE, np.uint8)
        for x in rng.integers(0, SIZE[1] - 2, 30):
            mask[:, x : x + 2] = 7
        picture = rng.integers(150, 200, (*SIZE, 3), np.uint8)
        picture[mask > 0] = 20
        for kind, pixels in (("image", picture), ("mask", mask)):
            Image.fromarray(pixels).save(folder / f"{i}-{kind}.png")
        rows.append([str(folder / f"{i}-{kind}.png") for kind in ("image", "mask")])
    return pd.DataFrame(rows, columns=["image", "label"])


def _tables(table: pd.DataFrame) -> Tables:
    columns = {"image": "image", "label": "label", "classes": None, "problem_type": None}
    rest = {"ignore_index": "auto", "groups": None, "holdout_frac": 0.4, "seed": 0}
    return prepare_tables(table, None, None, **columns, **rest)  # type: ignore[arg-type]


def _cut(tables: Tables, folder: Path, remaining: float = np.inf) -> tuple[Tables, Fingerprint]:
    facts = fingerprint(tables.train, tables.val, tables.label_map, tables.scan)
    return cut_large_pictures(tables, facts, RunFolder(folder), remaining, 0)


def test_a_fit_sees_windows_and_says_so(
    wires: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seg = tiny(tmp_path / "model", verbosity=2)
    with caplog.at_level(logging.INFO, logger="semseg_automl"):
        seg.fit(wires.iloc[:4], tuning_data=wires.iloc[4:], time_limit=10, hyperparameter_tune_kwargs=None)
    assert "their thinnest class would be 0.9 pixels thick. Training sees 12 windows" in caplog.text
    plan = seg.fit_summary(show=False)["plan"]
    assert plan[0] == (
        "pictures of 160 x 2200 are cut into windows of 160 x 733: resized, thin things would vanish"
    )
    assert seg._model.info["train_pictures"]["longest"] == 734
    assert not (tmp_path / "model" / "search").exists()  # the windows' place
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="semseg_automl"):
        mask = SemanticSegmentor.load(tmp_path / "model").predict(wires["image"].iloc[4])
    assert "predicted in tiles" in caplog.text
    assert np.shape(mask) == SIZE and set(np.unique(mask)) <= {0, 7}


def test_a_fit_that_fails_before_it_trains_leaves_no_windows(
    wires: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        assert len(list((tmp_path / "search" / "windows" / "train").iterdir())) == 24  # two files each
        raise RuntimeError("before training")

    monkeypatch.setattr("semseg_automl.estimator._fit._job", fail)
    with pytest.raises(RuntimeError, match="before training"):
        tiny(tmp_path).fit(wires.iloc[:4], tuning_data=wires.iloc[4:], time_limit=10)
    assert not (tmp_path / "search").exists()


def test_who_gives_a_size_gets_it(wires: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "model")
    small = {"image_size": 256, "crop_size": 64, "max_epochs": 1}
    seg.fit(wires, hyperparameters=small, hyperparameter_tune_kwargs=None)
    assert seg._model.info["train_pictures"]["longest"] == 2200
    assert not any("windows" in reason for reason in seg.fit_summary(show=False)["plan"])


def test_what_is_cut_serves_a_second_run(
    wires: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = _tables(wires)
    first, facts = _cut(tables, tmp_path)
    assert (len(first.train), len(first.val), facts.cut_from) == (9, 6, SIZE)
    assert (facts.n_train, facts.n_val, facts.height, facts.width) == (9, 6, 160, 733)
    monkeypatch.setattr(_windows, "cut_samples", _never)
    again, same = _cut(tables, tmp_path)
    assert same == facts
    assert (again.train.images, again.val.masks) == (first.train.images, first.val.masks)
    assert again.train.sizes == first.train.sizes and list(again.val.index) == list(first.val.index)
    with pytest.raises(AssertionError, match="cut again"):  # other pictures
        _cut(_tables(wires.iloc[:3]), tmp_path)


def test_masks_that_were_put_right_are_cut_anew(wires: pd.DataFrame, tmp_path: Path) -> None:
    """What a fit that was cut short tells its user to do, before resume=True."""
    table = wires.copy()
    for column in table.columns:
        for row, path in table[column].items():
            table.loc[row, column] = str(shutil.copy(path, tmp_path / f"{row}-{column}.png"))
    first, _ = _cut(_tables(table), tmp_path)
    (tmp_path / "search" / PLAN).write_text("{}")  # the run was planned
    for path in table["label"]:
        Image.fromarray(np.asarray(Image.open(path)) // 7 * 9).save(path)
    again, facts = _cut(_tables(table), tmp_path)
    assert facts.cut_from == SIZE and len(again.train) == len(first.train)
    values = {int(v) for mask in again.train.masks or () for v in np.unique(np.asarray(Image.open(mask)))}
    assert values == {0, 9}


def test_many_pictures_are_all_cut(
    wires: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the most that a part gets: one window each, and not none."""
    monkeypatch.setattr(_windows, "MOST", {"train": 2, "val": 1})
    tables, _ = _cut(_tables(wires), tmp_path)
    assert (len(tables.train), len(tables.val)) == (3, 2)
    assert max(max(size) for size in (*tables.train.sizes, *tables.val.sizes)) < 1000


def _never(*_: Any) -> None:
    raise AssertionError("cut again")


def _full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_and_pictures_are_seen_whole(
    wires: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables = _tables(wires)
    monkeypatch.setattr(_windows, "cut_samples", _full_disk)
    with caplog.at_level(logging.WARNING, logger="semseg_automl"):
        assert _cut(tables, tmp_path)[0] is tables
    assert "they can't be cut ([Errno 28] No space left on device): small things may be missed" in caplog.text
    assert not (tmp_path / "search" / "windows").exists()
    monkeypatch.undo()
    monkeypatch.setattr(_windows, "DISK_SHARE", 0.0)
    caplog.clear()
    assert _cut(tables, tmp_path)[0] is tables
    assert "there is room for 0 windows" in caplog.text


def test_a_run_that_planned_for_whole_pictures_keeps_to_them(wires: pd.DataFrame, tmp_path: Path) -> None:
    tables = _tables(wires)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / PLAN).write_text("{}")  # what a run leaves whose cutting failed
    assert _cut(tables, tmp_path)[0] is tables


def test_short_of_time_some_pictures_are_cut(
    wires: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="semseg_automl"):
        found, _ = _cut(_tables(wires), tmp_path, 0.0)
    assert "time to cut 1 of 3 pictures" in caplog.text and "time to cut 1 of 2 pictures" in caplog.text
    assert (len(found.train), len(found.val)) == (3, 3)  # of one picture each


def test_pictures_of_more_channels_are_left_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((64, 2100), np.uint8)
    mask[:, ::70] = 1
    table = pd.DataFrame({"image": [np.zeros((64, 2100, 5), np.uint8)] * 3, "label": [mask] * 3})
    tables = _tables(table)
    with caplog.at_level(logging.WARNING, logger="semseg_automl"):
        assert _cut(tables, tmp_path)[0] is tables
    assert "more than three channels are not cut" in caplog.text
