"""What ``predict`` takes: a table, pictures, folders of them, patterns; never the pictures' own place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from semseg_automl.cli import main
from semseg_automl.cli.pictures import table_or_pictures
from semseg_automl.core.errors import ConfigError, DataError
from tests.unit.cli.conftest import Place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures by their names, and what is none."""
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "below/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_folders_and_patterns(folder: Path) -> None:
    both = [str(folder / "a.png"), str(folder / "b.JPG")]
    assert table_or_pictures([str(folder)], "out") == both
    assert table_or_pictures([f"{folder}/*.png", f"{folder}/below"], "out") == [
        both[0],
        str(folder / "below" / "c.png"),
    ]
    assert table_or_pictures(["s3://bucket/*.png", "absent.png"], "out") == [
        "s3://bucket/*.png",
        "absent.png",
    ]
    assert table_or_pictures(["some/table.CSV"], "out") == "some/table.CSV"


def test_a_file_whose_name_looks_like_a_pattern(folder: Path) -> None:
    odd = folder / "leaf[1].png"
    odd.write_bytes(b"")
    assert table_or_pictures([str(odd)], "out") == [str(odd)]


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="holds no picture"):
        (folder / "empty").mkdir()
        table_or_pictures([str(folder / "empty")], "out")
    with pytest.raises(DataError, match="No file matches"):
        table_or_pictures([f"{folder}/*.tif"], "out")
    with pytest.raises(DataError, match=r"'t\.csv' is a table: give it alone"):
        table_or_pictures(["a.png", "t.csv"], "out")
    with pytest.raises(ConfigError, match="is a folder of the pictures"):
        table_or_pictures([str(folder)], f"{folder}/below/..")


def test_predict_takes_a_folder(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for path in place.pictures:
        shutil.copy(path, pictures)
    assert main(["predict", str(place.model), str(pictures), "--output-dir", str(out)]) == 0
    assert capsys.readouterr().out == f"3 masks in {out}\n"
    assert sorted(p.name for p in out.glob("*.png")) == sorted(p.name for p in pictures.iterdir())


def test_masks_never_replace_their_pictures(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Path(shutil.copy(place.pictures[0], tmp_path))
    before = picture.read_bytes()
    assert main(["predict", str(place.model), str(picture), "--output-dir", str(tmp_path)]) == 2
    assert f"would replace {picture.name}" in capsys.readouterr().err
    assert picture.read_bytes() == before and list(tmp_path.iterdir()) == [picture]
