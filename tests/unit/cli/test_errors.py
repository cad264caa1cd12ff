"""Exit codes, one readable block, Ctrl-C."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semseg_automl import cli
from semseg_automl.core import errors


def _raising(error: BaseException) -> object:
    def verb(_args: argparse.Namespace) -> int:
        raise error

    return lambda _name: verb


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DataError("a table"), 2),
        (errors.ConfigError("a value"), 2),
        (errors.ArtifactError("a folder"), 2),
        (errors.TrainingError("no model"), 1),
        (errors.WeightsError("no weights"), 1),
        (errors.BudgetError("no time"), 1),
        (RuntimeError("a bug"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_code_and_no_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_verb", _raising(error))
    assert cli.main(["doctor"]) == code
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    assert str(error) in said.err


def test_a_message_is_one_indented_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_verb", _raising(errors.DataError("one\ntwo")))
    cli.main(["fit", "train.csv"])
    assert capsys.readouterr().err == "semseg-automl fit: error (DataError)\n  one\n  two\n"


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_verb", _raising(errors.ConfigError("a value")))
    assert cli.main(["doctor", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_names_the_way_to_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_verb", _raising(KeyError("x")))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert "unexpected KeyError" in said and "--debug" in said


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fit absent.csv --backbone sam_tiny -qq", "absent.csv"),
        ("fit absent.csv --presets hig_quality -qq", "high_quality"),
        ("fit absent.csv --hyperparameters rnk=4 -qq", "rank"),
        ("fit absent.csv --time-limit 0 -qq", "time_limit"),
        ("evaluate absent/ test.csv", "absent"),
        ("leaderboard absent/", "absent"),
        ("predict absent/ a.png --output-dir out", "absent"),
        ("weights fetch mobilesam", "mobile_sam"),
        ("demo --data absent.csv -qq", "absent.csv"),
        ("demo --backbone sam_tiny --time-limit 0 -qq", "time_limit"),
        ("fit absent.csv --resume -qq", "--path"),
        ("fit absent.csv --seed -1 -qq", "--seed"),
        ("fit absent.csv --search-workers 0 -qq", "--search-workers"),
        ("fit absent.csv --backbone mobilesam -qq", "mobile_sam"),
        ("fit absent.csv --eval-metric mean_iuo -qq", "mean_iou"),
        ("fit absent.csv --init-from nowhere -qq", "nowhere"),
        ("fit absent.csv --hyperparameters backbone=sam_vit_b -qq", "--backbone"),
        ("fit absent.txt --backbone sam_tiny -qq", "does not end in .csv or .tsv"),
        ("fit . --backbone sam_tiny -qq", "from_folders"),
    ],
)
def test_wrong_input(
    line: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err and "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


@pytest.mark.skipif(os.name == "nt", reason="pipes end differently on Windows")
def test_a_reader_that_ends_early_is_no_error() -> None:
    code = "from semseg_automl.cli import main; raise SystemExit(main(['weights', 'list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0
