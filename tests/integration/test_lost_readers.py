"""Processes that read pictures are killed, or find a picture gone: nothing that was trained is lost."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import DataError
from semseg_automl.data import dataset, reading
from semseg_automl.data.datasets import make_textures
from semseg_automl.training.module import SegmentationModule
from tests.integration.quick import SMALL, tiny
from tests.integration.test_determinism import same

HYPER = {**SMALL, "max_epochs": 6, "batch_size": 2}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to kill with")


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    return make_textures(tmp_path / "pictures", n=8, size=(64, 64), n_classes=3, seed=0)


def fit(table: pd.DataFrame, path: Path, workers: int, **arguments: Any) -> SemanticSegmentor:
    return tiny(path, verbosity=1).fit(
        table,
        hyperparameters=HYPER,
        hyperparameter_tune_kwargs=None,
        num_workers=workers,
        devices="cpu",
        **arguments,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS], ids=lambda s: s.name)
def test_a_reader_that_is_killed_is_done_without(
    number: signal.Signals,
    table: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The fit goes on from its last validation without readers, to the very same model."""
    calls, real = itertools.count(), SegmentationModule.training_step

    def kills(self: SegmentationModule, batch: Any, index: int) -> torch.Tensor:
        if next(calls) == 15:  # of 21, after some validations
            os.kill(multiprocessing.active_children()[0].pid or 0, number)
        return real(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationModule, "training_step", kills)
        seg = fit(table, tmp_path / "killed", workers=2)
    assert next(calls) > 16 and not multiprocessing.active_children()
    assert "A process that reads pictures was lost (DataLoader worker (pid" in caplog.text
    assert "Going on from the last validation with num_workers=0" in caplog.text
    row = seg.leaderboard().set_index("model").loc["default"]
    assert row["state"] == "finished" and "lost" in row["reason"]
    assert same(seg, fit(table, tmp_path / "undisturbed", workers=0))


def test_a_reader_that_is_killed_while_the_fit_reads_a_picture_itself(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch raises a reader's end wherever the fit is: in a validation picture, which is not at fault."""
    monkeypatch.setattr(dataset, "_cache_size", lambda: 0)
    calls, real, main = itertools.count(), reading.orientation_of, os.getpid()

    def kills(*arguments: Any, **named: Any) -> int:
        readers = multiprocessing.active_children()
        if os.getpid() == main and readers and next(calls) == 2:  # one validation picture: after two of them
            os.kill(readers[0].pid or 0, signal.SIGKILL)
            time.sleep(10)  # ended by torch's error
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(reading, "orientation_of", kills)
        seg = fit(table, tmp_path / "killed", workers=2)
    assert next(calls) > 2 and not multiprocessing.active_children()
    assert "A process that reads pictures was lost (DataLoader worker (pid" in caplog.text
    assert seg.leaderboard().set_index("model").loc["default", "state"] == "finished"
    assert same(seg, fit(table, tmp_path / "undisturbed", workers=0))


def test_a_picture_that_vanishes_is_told_and_the_fit_goes_on_when_it_is_back(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_cache_size", lambda: 0)
    victim, calls, real = Path(table["image"][0]), itertools.count(), SegmentationModule.training_step
    data = victim.read_bytes()

    def removes(self: SegmentationModule, batch: Any, index: int) -> torch.Tensor:
        if next(calls) == 11:  # of 21: readers are some batches ahead, but not of every later epoch
            victim.unlink()
        return real(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationModule, "training_step", removes)
        with pytest.raises(DataError, match=r"resume=True goes on") as caught:
            fit(table, tmp_path / "m", workers=1)
    assert victim.name in str(caught.value) and "Traceback" not in str(caught.value)
    victim.write_bytes(data)
    assert same(
        fit(table, tmp_path / "m", workers=1, resume=True), fit(table, tmp_path / "undisturbed", workers=0)
    )


SCRIPT = """
from semseg_automl import SemanticSegmentor
seg = SemanticSegmentor(backbone="sam_tiny", path="m", verbosity=2)
seg.fit("train.csv", hyperparameters={{"image_size": 64, "max_epochs": {epochs}}},
        hyperparameter_tune_kwargs=None, num_workers=2, devices="cpu")
print("went on")
"""


@pytest.mark.parametrize(
    ("number", "epochs"),
    [(signal.SIGTERM, 400), (signal.SIGTERM, 100_000), (signal.SIGINT, 400)],
    ids=["SIGTERM", "SIGTERM before a validation", "SIGINT"],
)
def test_a_signal_to_the_whole_group_ends_readers_and_keeps_the_model(
    number: signal.Signals, epochs: int, table: pd.DataFrame, tmp_path: Path
) -> None:
    """A cluster's SIGTERM and a terminal's Ctrl-C reach the processes that read pictures, too."""
    table.to_csv(tmp_path / "train.csv", index=False)
    log, state = tmp_path / "log", tmp_path / "m" / "search" / "default.safetensors"
    code = SCRIPT.format(epochs=epochs)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 200
        while not (state.exists() if epochs == 400 else "Parameters: " in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        time.sleep(0.0 if epochs == 400 else 3.0)  # until steps are made
        assert state.exists() == (epochs == 400)
        os.killpg(process.pid, number)
        told = time.monotonic()
        status = process.wait(60)
        assert number == signal.SIGINT or time.monotonic() - told < 10  # Ctrl-C has time for a validation
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text()
    assert "Interrupted: the best model so far is kept" in text, text
    assert (status, "went on" in text) == ((0, True) if number == signal.SIGINT else (-number, False)), text
    loaded = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert loaded.fit_summary(show=False)["state"] == "interrupted" and len(loaded.predict(table)) == 8
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of the group is left
