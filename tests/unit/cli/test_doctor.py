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


def test_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"index": 0, "name": "a GPU", "memory": 80 * 10**9, "capability": "9.0", "bfloat16": True}
    monkeypatch.setattr("semseg_automl.models.devices.describe_gpus", lambda: [gpu])
    found = doctor.report()
    assert found["gpus"] == [gpu]
    line = next(line for line in doctor._lines(found) if line.startswith("GPU 0"))
    assert "a GPU, 80.0 GB, capability 9.0, CUDA" in line


def test_what_fits_follows_from_the_free_memory() -> None:
    assert all(fact["fits"] is None for fact in doctor.what_fits(None).values())
    some = doctor.what_fits(13 * 2**30)
    assert {name: fact["fits"] for name, fact in some.items()} == {
        "mobile_sam": True,
        "sam_vit_b": True,
        "sam_vit_l": False,
        "sam_vit_h": False,
    }
    assert doctor._fit_line(some["sam_vit_h"]) == "takes about 42.9 GB: does not fit in what is free"


def test_the_backbone_of_auto_is_told() -> None:
    found = doctor.report()
    assert found["auto_backbone"]["name"] in BACKBONES and found["auto_backbone"]["reason"]
    told = next(line for line in doctor._lines(found) if line.startswith("auto backbone"))
    assert found["auto_backbone"]["reason"] in told


def test_weights_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(BACKBONES)
    assert rows["sam_tiny"]["bytes_to_fetch"] == 0 and rows["sam_vit_b"]["bytes_to_fetch"] > 3e8
    assert main(["weights", "fetch", "sam_tiny", "--json", "-qq"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "sam_tiny"
