"""doctor and weights: facts about this machine, without network."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path

import pytest

from semseg_automl import __version__
from semseg_automl.cli import doctor, main
from semseg_automl.models.checkpoints import BACKBONES


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("SEMSEG_AUTOML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEMSEG_AUTOML_WEIGHTS", raising=False)


def test_json_and_text_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == __version__ and found["problems"] == []
    assert found["cores"] >= 1 and found["disk_free"] > 0
    assert {"torch", "lightning", "optuna", "pandas"} <= set(found["packages"])
    assert not {"pytest", "ruff"} & set(found["packages"]), "extras are not required"
    assert found["weights"] == dict.fromkeys((n for n, s in BACKBONES.items() if s.sources), None)
    assert any("no weights" in note for note in found["notes"])
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"torch {found['packages']['torch']}" in text and str(tmp_path / "cache") in text


def test_weights_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sam_vit_b.pth"
    file.write_bytes(b"")
    monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", str(tmp_path))
    assert doctor.report()["weights"]["sam_vit_b"] == str(file)
    assert main(["weights", "list"]) == 0
    text = capsys.readouterr().out
    assert str(file) in text and text.count("not here") == 3 and "needs no file" in text


def test_a_missing_package_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "package_versions", lambda: {"torch": "2", "timm": None})
    assert doctor.doctor(argparse.Namespace(json=False)) == 1
    said = capsys.readouterr().out
    assert "PROBLEM" in said and "pip install timm" in said and "timm MISSING" in said


def test_a_torch_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("libtorch is broken")

    monkeypatch.setattr(doctor, "_torch_facts", fails)
    found = doctor.report()
    assert any("libtorch is broken" in problem for problem in found["problems"])
    assert found["device"] is None and "unknown" in "\n".join(doctor._lines(found))


def test_fetch_of_the_test_backbone_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "sam_tiny", "-qq"]) == 0
    assert "needs no file" in capsys.readouterr().out


@pytest.mark.weights
def test_fetch_finds_real_weights(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEMSEG_AUTOML_WEIGHTS", str(weights_folder))
    assert main(["weights", "fetch", "mobile_sam"]) == 0
    assert str(weights_folder) in capsys.readouterr().out
