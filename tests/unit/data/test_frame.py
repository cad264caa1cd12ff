"""Tables: every accepted form gives the same samples; a wrong one is refused once, with everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.frame import Samples, check_table


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    rows = []
    for i in range(4):
        array = np.full((8, 10 + i, 3), 40 * i, np.uint8)
        Image.fromarray(array).save(tmp_path / f"i{i}.png")
        Image.fromarray(array[..., 0] % 2).save(tmp_path / f"m{i}.png")
        rows.append((str(tmp_path / f"i{i}.png"), str(tmp_path / f"m{i}.png")))
    return pd.DataFrame(rows, columns=["image", "label"], index=[7, 3, 3, 5])


def _check(data: Any, y: Any = None, need_label: bool = True, **options: Any) -> Samples:
    return check_table(data, y, need_label=need_label, **options)


def test_dataframe(table: pd.DataFrame) -> None:
    samples = _check(table)
    assert samples.images == tuple(table.image) and samples.masks == tuple(table.label)
    assert samples.sizes == ((8, 10), (8, 11), (8, 12), (8, 13)) and len(samples) == 4
    assert list(samples.index) == [7, 3, 3, 5]
    part = samples.subset(np.array([2, 0]))
    assert (
        part.sizes == ((8, 12), (8, 10))
        and list(part.index) == [3, 7]
        and part.masks == (table.label.iloc[2], table.label.iloc[0])
    )


def test_other_column_names_dtypes_and_objects(table: pd.DataFrame) -> None:
    renamed = table.rename(columns={"image": "x", "label": "y"})
    assert _check(renamed, image="x", label="y").images == tuple(table.image)
    for frame in (
        table.astype(object),
        table.astype("string"),
        table.map(Path),
        table.map(lambda p: Path(p).as_uri()),
    ):
        assert _check(frame).images == tuple(table.image)
    objects = pd.DataFrame(
        {
            "image": [np.zeros((4, 5, 3), np.uint8), Image.new("L", (5, 4))],
            "label": [np.zeros((4, 5), bool), Image.new("1", (5, 4))],
        }
    )
    assert _check(objects).sizes == ((4, 5), (4, 5))


def test_csv_paths_are_relative_to_the_csv(table: pd.DataFrame, tmp_path: Path, monkeypatch: Any) -> None:
    relative = table.map(os.path.basename)
    relative.to_csv(tmp_path / "t.csv", index=False)
    relative.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for source in (
        tmp_path / "t.csv",
        str(tmp_path / "t.csv"),
        os.path.join("..", "t.csv"),
        tmp_path / "t.tsv",
    ):
        samples = _check(source)
        assert samples.images == tuple(table.image) and list(samples.index) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="missing image"):
        _check(relative)
    monkeypatch.chdir(tmp_path)
    assert _check(relative).images == tuple(table.image)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_of_another_separator_is_told_as_that(
    table: pd.DataFrame, tmp_path: Path, separator: str
) -> None:
    table.to_csv(tmp_path / "t.csv", index=False, sep=separator)
    with pytest.raises(DataError) as caught:
        check_table(tmp_path / "t.csv", need_label=True)
    text = str(caught.value)
    assert f"{separator!r} seems to part the columns" in text and text.count("\n") == 1
    assert "Save the csv with commas" in text and "not among the columns" not in text


def test_y_and_sequences(table: pd.DataFrame) -> None:
    x = table[["image"]]
    for y in (table.label, list(table.label), table.label.to_numpy(), table[["label"]], tuple(table.label)):
        assert _check(x, y).masks == tuple(table.label)
        assert _check(list(table.image), y).masks == tuple(table.label)
    for values in (table.image.values, pd.Index(table.image), table.image.astype("category").values):
        assert _check(values, table.label.values).masks == tuple(
            table.label
        )  # of pandas' own array types, too
    series = _check(table.image, table.label)
    assert list(series.index) == [7, 3, 3, 5]
    stack = np.zeros((2, 4, 5), np.uint8)
    assert len(_check(np.zeros((2, 4, 5, 3), np.uint8), stack)) == 2


def test_one_picture_in_any_form(table: pd.DataFrame) -> None:
    path = table.image.iloc[0]
    for one in (path, Path(path), Image.open(path), np.asarray(Image.open(path))):
        samples = _check(one, need_label=False)
        assert samples.sizes == ((8, 10),) and samples.masks is None


def test_without_labels_the_label_column_is_not_looked_at(table: pd.DataFrame) -> None:
    table["label"] = None
    assert _check(table, need_label=False).masks is None
    assert _check(table[["image"]], y=["nonsense"], need_label=False).masks is None


def test_everything_wrong_in_one_error(table: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    whole = Path(table.image.iloc[0]).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    bad = pd.DataFrame(
        [
            ("gone.png", table.label.iloc[0]),
            (str(tmp_path / "text.png"), table.label.iloc[0]),
            (str(tmp_path / "half.png"), table.label.iloc[0]),
            (None, table.label.iloc[0]),
            (float("nan"), pd.NA),
            ("  ", table.label.iloc[0]),
            (table.image.iloc[0], table.label.iloc[1]),
            (np.zeros((3, 8, 10)), table.label.iloc[0]),
            (table.image.iloc[0], str(tmp_path)),
            ("nosuch://example.org/a.png", 3),
            (table.image.iloc[0], table.label.iloc[0]),
        ],
        columns=["image", "label"],
        index=[f"r{i}" for i in range(11)],
    )
    with pytest.raises(DataError) as caught:
        _check(bad, role="tuning_data")
    text = str(caught.value)
    assert text.startswith("tuning_data can't be used:")
    for part in (
        "missing image: row 'r0'", "gone.png", "unreadable image (2): row 'r1'", "text.png", "half.png",
        "no image (3): row 'r3': the cell is empty (None)", "row 'r5'", "no mask: row 'r4'",
        "mask of another size than its image: row 'r6'", "is 10x8", "is 11x8", "unsupported image: row 'r7'",
        "(3, 8, 10)", "missing mask: row 'r8'", "is a folder; datasets.from_folders",
        "unreachable image: row 'r9': nosuch://example.org/a.png: can't be fetched",
        "unsupported mask: row 'r9': a int",
    ):  # fmt: skip
        assert part in text, part
    assert "r10" not in text


def test_long_lists_are_cut() -> None:
    with pytest.raises(DataError, match=r"missing image \(50\)") as caught:
        _check([f"no{i}.png" for i in range(50)], need_label=False)
    assert "and 45 more" in str(caught.value) and len(str(caught.value)) < 1000


def test_missing_columns_empty_tables_and_lengths(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)'image' is not among.*Did you mean 'images'.*'label' is not among"
    ):
        _check(table.rename(columns={"image": "images", "label": "mask"}))
    with pytest.raises(DataError, match="empty"):
        _check(table.iloc[:0])
    with pytest.raises(DataError, match="empty"):
        _check([], need_label=False)
    with pytest.raises(DataError, match="3 masks for 4 pictures"):
        _check(table[["image"]], list(table.label)[:3])
    with pytest.raises(DataError, match="y=masks"):
        _check(list(table.image))
    with pytest.raises(DataError, match=r"missing file: .*none\.csv"):
        _check(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="unreadable table"):
        _check(tmp_path / "empty.csv")
    with pytest.raises(DataError, match="int is no table"):
        _check(3, need_label=False)


def test_a_turned_picture_needs_a_turned_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 8)).save(tmp_path / "i.jpg", exif=exif)
    Image.new("L", (10, 8)).save(tmp_path / "flat.png")
    Image.new("L", (10, 8)).save(tmp_path / "turned.png", exif=exif)
    Image.new("L", (8, 10)).save(tmp_path / "upright.png")
    for mask in ("turned.png", "upright.png"):
        assert _check([tmp_path / "i.jpg"], [tmp_path / mask]).sizes == ((10, 8),)
    with pytest.raises(DataError, match="EXIF"):
        _check([tmp_path / "i.jpg"], [tmp_path / "flat.png"])


def test_a_complaint_ends_once_before_its_remedy(table: pd.DataFrame) -> None:
    for wrong, found in (({"image": "images"}, "'images'? Rename"), ({"image": "zzz"}, "'label']. Rename")):
        with pytest.raises(DataError) as caught:
            check_table(table.rename(columns=wrong), need_label=False)
        assert found in str(caught.value) and ".." not in str(caught.value).replace("...", "")
