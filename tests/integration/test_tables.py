"""Tables as people have them: small, one-sided, oddly indexed, in memory, as csv; and labels never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import DataError
from tests.integration.quick import NO_SEARCH, relabelled, tiny


def test_ten_pictures(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(textures[:10], **NO_SEARCH)
    assert np.isfinite(seg.best_score_) and np.isfinite(seg.score(textures[10:]))


@pytest.mark.parametrize("value", [0, 1, 255])
def test_one_class(value: int, textures: pd.DataFrame, tmp_path: Path) -> None:
    """Nothing to tell apart: it works, warns, and the model can be saved and loaded."""
    table = relabelled(textures[:6], tmp_path / "masks", lambda _i, m: np.full_like(m, value))
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    assert seg.problem_type_ == "binary" and value in seg.class_values_
    masks = seg.predict(table)
    assert set(np.unique(np.stack(list(masks)))) <= set(seg.class_values_)
    loaded = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert loaded.best_score_ == pytest.approx(seg.best_score_, nan_ok=True)


def test_nothing_but_ignored_pixels(textures: pd.DataFrame, tmp_path: Path) -> None:
    table = relabelled(textures[:3], tmp_path / "masks", lambda _i, m: np.full_like(m, 9))
    with pytest.raises(DataError, match="ignored value 9"):
        tiny(tmp_path / "m", ignore_index=9).fit(table, **NO_SEARCH)
    assert not (tmp_path / "m").exists()


def test_a_value_that_training_never_saw(
    multiclass: SemanticSegmentor,
    textures: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def odd(row: int, mask: np.ndarray) -> np.ndarray:
        if row in (3, 8):
            mask[:10] = 77
        return mask

    table = relabelled(textures, tmp_path / "masks", odd)
    table.index = pd.Index([f"row{i}" for i in range(12)])
    found = SemanticSegmentor.load(multiclass.path_, verbosity=1).evaluate(table, per_class=True)
    warnings = [r.getMessage() for r in caplog.records if "never saw" in r.getMessage()]
    assert len(warnings) == 1 and "77" in warnings[0] and "row3" in warnings[0]
    assert found["pixels"].sum() == 12 * 64 * 80 - 2 * 10 * 80  # left out of the count
    with pytest.raises(DataError, match=r"row3.*77.*strict_labels"):
        multiclass.evaluate(table, strict_labels=True)


@pytest.mark.parametrize("kind", ["filtered", "duplicate", "string", "reset"])
def test_any_index(kind: str, textures: pd.DataFrame, tmp_path: Path) -> None:
    table = {
        "filtered": textures.iloc[[1, 4, 5, 7, 9, 11]],
        "duplicate": textures[:6].set_index(pd.Index([0, 0, 1, 1, 2, 2])),
        "string": textures[:6].set_index(pd.Index(list("fedcba"))),
        "reset": textures[6:].reset_index(drop=True),
    }[kind]
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    assert seg.predict(table).index.equals(table.index)
    rows = seg.evaluate(table, per_image=True)
    assert rows.index.equals(table.index)
    for position, path in enumerate(table["image"]):
        alone = seg.evaluate(pd.DataFrame({"image": [path], "label": [table["label"].iloc[position]]}))
        assert rows["pixel_accuracy"].iloc[position] == pytest.approx(alone["pixel_accuracy"], abs=1e-3)


def test_pictures_and_masks_apart(
    textures: pd.DataFrame, multiclass: SemanticSegmentor, tmp_path: Path
) -> None:
    """fit(X, y) with a Series of mask paths is fit(table)."""
    x, y = textures[["image"]], textures["label"]
    seg = tiny(tmp_path / "m").fit(x, y, **NO_SEARCH)
    assert seg.best_score_ == multiclass.best_score_
    assert seg.score(x, y) == multiclass.score(textures)
    assert seg.fit_summary(show=False)["history"][-1][0] == 3


@pytest.mark.parametrize("kind", ["array", "pil", "path"])
def test_cells_in_memory(
    kind: str, textures: pd.DataFrame, multiclass: SemanticSegmentor, tmp_path: Path
) -> None:
    read = {"array": lambda p: np.array(Image.open(p)), "pil": Image.open, "path": Path}[kind]
    table = pd.DataFrame({c: pd.Series([read(p) for p in textures[c]], dtype=object) for c in textures})
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    assert seg.best_score_ == multiclass.best_score_
    assert seg.evaluate(table) == multiclass.evaluate(textures)
    alone = seg.predict(table["image"][0])  # one picture in, one mask out
    assert isinstance(alone, np.ndarray) and alone.shape == (64, 80)
    assert seg.predict_proba(table["image"][0]).shape == (3, 64, 80)


def test_csv_with_relative_paths(
    textures: pd.DataFrame, multiclass: SemanticSegmentor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the csv file, wherever the process runs; groups may name one of its columns."""
    folder = Path(textures["image"][0]).parents[1]
    names = textures.map(lambda p: Path(p).relative_to(folder).as_posix())
    csv = folder / "train.csv"
    names.assign(patient=[i // 3 for i in range(12)]).to_csv(csv, index=False)
    monkeypatch.chdir(tmp_path)
    seg = tiny(tmp_path / "m").fit(str(csv), groups="patient", **NO_SEARCH)
    assert seg.evaluate(csv).keys() == multiclass.evaluate(textures).keys()
    assert len(seg.predict(csv)) == 12
    with pytest.raises(DataError, match=r"'patiant' is not a column.*Did you mean 'patient'"):
        tiny(tmp_path / "n").fit(csv, groups="patiant", **NO_SEARCH)


def test_groups_stay_together(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Of three groups of four pictures one is held out, whole; unlabelled rows take their label along."""
    table = relabelled(textures, tmp_path / "masks", lambda i, m: np.full_like(m, 255) if i == 0 else m)
    groups = np.repeat(["a", "b", "c"], 4)
    seg = tiny(tmp_path / "m").fit(table, groups=groups, **NO_SEARCH)
    assert (seg._model.info["n_train"], seg._model.info["n_val"]) in {(7, 4), (8, 3)}
    with pytest.raises(DataError, match="groups has 5 labels for 12 pictures"):
        tiny(tmp_path / "n").fit(table, groups=groups[:5], **NO_SEARCH)


def test_tuning_data_is_the_validation_set(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(textures[:8], tuning_data=textures[8:], **NO_SEARCH)
    assert (seg._model.info["n_train"], seg._model.info["n_val"]) == (8, 4)
    assert seg.score(textures[8:]) == pytest.approx(seg.best_score_, abs=1e-6)


def test_everything_wrong_is_told_at_once(textures: pd.DataFrame, tmp_path: Path) -> None:
    wrong = textures.copy()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("L", (7, 7)).save(tmp_path / "small.png")
    wrong.loc[1, "image"] = str(tmp_path / "gone.png")
    wrong.loc[2, "label"] = str(tmp_path / "broken.png")
    wrong.loc[3, "label"] = str(tmp_path / "small.png")
    with pytest.raises(DataError) as caught:
        tiny(tmp_path / "m").fit(wrong, **NO_SEARCH)
    for part in ("gone.png", "broken.png", "small.png"):
        assert part in str(caught.value)
    assert not (tmp_path / "m").exists()
    with pytest.raises(DataError, match=r"'label' is not among the columns.*Did you mean 'labels'"):
        tiny(tmp_path / "m").fit(textures.rename(columns={"label": "labels"}), **NO_SEARCH)
    with pytest.raises(DataError, match="not one row"):
        tiny(tmp_path / "m").fit(textures[:0], **NO_SEARCH)
