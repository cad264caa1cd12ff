"""The demo: one run on generated pictures, one on the user's table."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from semseg_automl.cli import demo, main
from semseg_automl.core.errors import ArtifactError, DataError
from semseg_automl.data import datasets


@pytest.fixture
def small_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the pictures, as small as the others in these tests."""
    monkeypatch.setattr(
        demo, "make_textures", lambda folder: datasets.make_textures(folder, n=10, size=(64, 80), n_classes=4)
    )


def _run(root: Path, *more: str) -> int:
    return main(["demo", "--path", str(root), "--backbone", "sam_tiny", "--time-limit", "2", "-qq", *more])


@pytest.mark.usefixtures("small_textures")
def test_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run_1").mkdir()  # an earlier run
    assert _run(tmp_path) == 0
    folder = tmp_path / "run_2"
    said = capsys.readouterr().out
    assert "mean_iou" in said and "Scores on 2 held-out pictures" in said
    assert "majority_class" in said
    assert f"picture: {folder / 'predictions.png'}" in said
    with Image.open(folder / "predictions.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    train, test = (pd.read_csv(folder / f"{part}.csv") for part in ("train", "test"))
    assert len(train) == 8 and len(test) == 2
    assert not set(train["image"]) & set(test["image"])
    assert (folder / "model" / "current.json").is_file()


def test_with_data(binary_textures: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = binary_textures.rename(columns={"image": "pic"})
    table = table.map(lambda path: os.path.relpath(path, tmp_path))
    table.to_csv(tmp_path / "mine.csv", index=False)  # relative to the file, not to the working directory
    assert _run(tmp_path / "demo", "--data", str(tmp_path / "mine.csv"), "--image", "pic") == 0
    assert "\niou " in capsys.readouterr().out


def test_weights_come_before_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    class Stop(Exception):
        pass

    def fit(*_args: object, **_named: object) -> None:
        calls.append("fit")
        raise Stop("here")

    monkeypatch.setattr(demo, "make_textures", lambda f: datasets.make_textures(f, n=4, size=(32, 32)))
    monkeypatch.setattr("semseg_automl.models.checkpoints.resolve_weights", lambda name: calls.append(name))
    monkeypatch.setattr(demo.SemanticSegmentor, "fit", fit)
    assert _run(tmp_path) == 1
    assert calls == ["sam_tiny", "fit"]


def test_hold_out_is_disjoint_and_repeatable() -> None:
    table = pd.DataFrame({"image": range(23), "label": range(23)})
    train, test = demo.hold_out(table)
    assert sorted([*train.index, *test.index]) == list(range(23)) and len(test) == 5
    assert demo.hold_out(table)[1].equals(test)
    assert len(demo.hold_out(table[:2])[1]) == 1
    with pytest.raises(DataError, match="at least 2 rows"):
        demo.hold_out(table[:1])


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="--path"):
        demo.fresh_folder(str(tmp_path / "file"))
