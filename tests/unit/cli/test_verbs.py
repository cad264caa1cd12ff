"""fit, predict, evaluate, leaderboard: one model, made and used through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.cli import main
from tests.unit.cli.conftest import TINY, Place


def test_evaluate_prints_what_the_estimator_answers(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(place.model), str(place.test), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == SemanticSegmentor.load(place.model, verbosity=0).evaluate(place.test)
    assert main(["evaluate", str(place.model), str(place.test)]) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lines == {name: f"{value:.4f}" for name, value in said.items()}


def test_evaluate_per_class_and_per_image(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(place.model), str(place.test), "--json", "--per-class"]) == 0
    classes = json.loads(capsys.readouterr().out)
    assert len(classes) == 3 and {"name", "iou"} <= set(classes[0])
    assert main(["evaluate", str(place.model), str(place.test), "--json", "--per-image"]) == 0
    pictures = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in pictures] == [0, 1, 2] and "mean_iou" in pictures[0]
    assert main(["evaluate", str(place.model), str(place.test), "--per-class"]) == 0
    assert "iou" in capsys.readouterr().out.splitlines()[0]


def test_predict_writes_a_mask_per_picture(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seg = SemanticSegmentor.load(place.model, verbosity=0)
    expected = seg.predict(place.test)
    for number, data in enumerate(([str(place.test)], place.pictures, place.pictures[:1])):
        out = tmp_path / str(number)
        assert main(["predict", str(place.model), *data, "--output-dir", str(out)]) == 0
        count = 1 if number == 2 else 3
        assert capsys.readouterr().out == f"{count} mask{'' if count == 1 else 's'} in {out}\n"
        files = sorted(out.glob("*.png"))
        assert [f.stem for f in files] == [Path(p).stem for p in place.pictures][:count]
        for file, mask in zip(files, expected, strict=False):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), mask)


def test_predict_answers_1_where_pictures_can_not_be_read(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out, absent = tmp_path / "out", str(tmp_path / "absent.png")
    line = ["predict", str(place.model), place.pictures[0], absent, "--output-dir", str(out)]
    assert main(line) == 1
    said = capsys.readouterr()
    assert said.out == f"1 mask in {out}\n" and "1 of 2 pictures could not" in said.err
    assert absent in caplog.text
    assert (out / Path(place.pictures[0]).name).is_file()


def test_predict_takes_shards_and_views(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    line = ["predict", str(place.model), str(place.test), "--output-dir", str(tmp_path / "out")]
    for part, count in enumerate((2, 1)):
        assert main([*line, "--tta", "flips", "--shard", f"{part}/2"]) == 0
        assert capsys.readouterr().out.startswith(f"{count} mask")
    assert main([*line, "--tta", "flips"]) == 0
    assert "3 were there already" in caplog.text
    capsys.readouterr()
    for wrong in (["--shard", "2/2"], ["--shard", "two"], ["--tta", "flop"]):
        assert main([*line, *wrong]) == 2
        assert wrong[0][2:] in capsys.readouterr().err


def test_predict_tells_its_files_as_json(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "predict",
        str(place.model),
        *place.pictures,
        "--output-dir",
        str(tmp_path),
        "--json",
        "--tta=none",
    ]
    assert main([*line, "--batch-size", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [Path(row["mask"]).stem for row in rows] == [Path(p).stem for p in place.pictures]
    assert all(Path(row["mask"]).is_file() for row in rows)


def test_evaluate_with_metrics_of_choice(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", str(place.model), str(place.test), "--json", "--metrics"]
    assert main([*line, "kappa,boundary_f"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["kappa", "boundary_f"]
    assert main([*line, "dice", "--confidence", "0.9"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["metric"] == "dice" and row["low"] <= row["value"] <= row["high"]
    assert main([*line, "kapa"]) == 2
    assert "Did you mean 'kappa'" in capsys.readouterr().err


def test_report(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    line = ["report", str(place.model), str(place.test), "--output", str(page), "--pictures", "2"]
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page), "bytes": page.stat().st_size}
    assert page.read_text(encoding="utf-8").count("<figure>") == 2
    assert main([*line[:2], "--output", str(page)]) == 0
    assert capsys.readouterr().out.startswith(f"report: {page} (")
    assert "<figure>" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_export_passes_its_arguments_on(
    size: tuple[int, int] | None,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The export itself has tests of its own."""

    def export_onnx(self: SemanticSegmentor, path: str, *, size: tuple[int, int] | None = None) -> Path:
        Path(path).write_text(f"{size}")
        return Path(path)

    monkeypatch.setattr(SemanticSegmentor, "export_onnx", export_onnx, raising=False)
    file = tmp_path / "m.onnx"
    more = [] if size is None else ["--size", *map(str, size)]
    assert main(["export", str(place.model), str(file), "--json", *more]) == 0
    assert file.read_text() == str(size)
    assert json.loads(capsys.readouterr().out) == {"onnx": str(file), "bytes": len(str(size))}


def test_leaderboard(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(place.model), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    frame = SemanticSegmentor.load(place.model, verbosity=0).leaderboard()
    assert [row["model"] for row in rows] == list(frame["model"])
    assert list(rows[0]) == list(frame.columns)
    last = next(row for row in rows if row["model"] == "majority_class")
    assert [type(rows[0]["rank"]), type(rows[0]["learning_rate"]), last["rank"]] == [int, float, None]
    assert frame["rank"].dtype == frame["batch_size"].dtype == "Int64"
    assert main(["leaderboard", str(place.model)]) == 0
    text = capsys.readouterr().out
    assert all(model in text for model in frame["model"]) and "NaN" not in text and "<NA>" not in text


def test_leaderboard_of_a_test_table(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "other.csv"
    pd.read_csv(place.test).rename(columns={"pic": "photo"}).to_csv(renamed, index=False)
    line = ["leaderboard", str(place.model), str(renamed), "--image", "photo"]
    assert main([*line, "--json"]) == 0
    scores = {row["model"]: row["score_test"] for row in json.loads(capsys.readouterr().out)}
    assert main(line) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    column = head.split().index("score_test")
    assert {row.split()[0]: row.split()[column] for row in rows} == {
        name: f"{value:.4g}" for name, value in scores.items()
    }


def test_a_folder_that_holds_a_model_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--image", "pic", "--label", "seg"]
    line = ["fit", str(place.train), "--path", str(place.model), "--time-limit", "5", "-qq"]
    assert main([*line, *columns, *TINY]) == 2
    assert "already holds a model" in capsys.readouterr().err


def test_fit_passes_every_argument_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, object] = {}

    def fit(self: SemanticSegmentor, train_data: object, **arguments: object) -> SemanticSegmentor:
        seen.update(train_data=train_data, **arguments, **self.get_params())
        self.eval_metric_, self.best_score_, self.path_ = "iou", 0.5, tmp_path / "m"
        self.problem_type_ = "binary"
        return self

    monkeypatch.setattr(SemanticSegmentor, "fit", fit)
    monkeypatch.setattr("semseg_automl.cli.fit.holds_model", lambda _folder: True)
    line = (
        "fit t.csv --time-limit 9 --path m --tuning-data v.csv --presets high_quality --backbone sam_vit_b "
        "--hyperparameters rank=[2,4] --problem-type binary --image a --label b --seed 3 --devices 0,1 "
        "--no-search --init-from old --resume -q --classes sky,road --ignore-index none --eval-metric dice "
        "--groups patient --holdout-frac 0.2 --num-workers 2 --storage sqlite:///s.db"
    )
    assert main(line.split()) == 0
    assert capsys.readouterr().out == f"iou on validation: 0.5000\nmodel: {tmp_path / 'm'}\n"
    expected = {
        "train_data": "t.csv",
        "time_limit": 9.0,
        "path": "m",
        "tuning_data": "v.csv",
        "presets": "high_quality",
        "backbone": "sam_vit_b",
        "hyperparameters": {"rank": [2, 4]},
        "problem_type": "binary",
        "image": "a",
        "label": "b",
        "random_state": 3,
        "devices": [0, 1],
        "hyperparameter_tune_kwargs": None,
        "init_from": "old",
        "resume": True,
        "verbosity": 1,
        "classes": ["sky", "road"],
        "ignore_index": None,
        "eval_metric": "dice",
        "groups": "patient",
        "holdout_frac": 0.2,
        "num_workers": 2,
        "storage": "sqlite:///s.db",
    }
    assert {name: seen[name] for name in expected} == expected


def test_fit_tells_its_result_as_json(
    textures: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    textures.to_csv(tmp_path / "train.csv", index=False)
    line = ["fit", str(tmp_path / "train.csv"), "--path", str(tmp_path / "m"), "--json", "-qq", *TINY]
    assert main(line) == 0
    said = json.loads(capsys.readouterr().out)
    seg = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert said["path"] == str(tmp_path / "m") and said["best_model"] == "default"
    assert said["score_val"] == seg.best_score_ and said["classes"] == list(seg.classes_)


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C can't be sent to one process there")
def test_ctrl_c_keeps_the_best_model(textures: pd.DataFrame, tmp_path: Path) -> None:
    table, model = tmp_path / "train.csv", tmp_path / "model"
    textures.to_csv(table, index=False)
    code = "import sys; from semseg_automl.cli import main; raise SystemExit(main(sys.argv[1:]))"
    line = [
        "fit",
        str(table),
        "--path",
        str(model),
        "--time-limit",
        "100",
        "--backbone",
        "sam_tiny",
        "--no-search",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    assert process.stderr is not None
    while "Model folder" not in process.stderr.readline() and time.monotonic() < deadline:
        pass
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"model: {model}" in out and "Traceback" not in err
    assert (model / "current.json").is_file()
