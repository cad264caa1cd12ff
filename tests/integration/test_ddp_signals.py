"""SIGTERM while several processes train: within ten seconds the model is stored and all have ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor

LIMIT = 10.0
pytestmark = [
    pytest.mark.slow,  # each starts three processes that import torch
    pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it"),
    pytest.mark.skipif(shutil.which("ps") is None, reason="ps, which finds what is left behind, is not here"),
]

SCRIPT = """
from semseg_automl import SemanticSegmentor
seg = SemanticSegmentor(backbone="sam_tiny", path="m", verbosity=2)
seg.fit("train.csv", hyperparameters={"image_size": 64, "max_epochs": 1000},
        hyperparameter_tune_kwargs=None, num_workers=1, devices="cpu:2")
print("went on")
"""


class Fit:
    """The script in a process of its own, with its temporary files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.state = folder / "m" / "search" / "default.safetensors"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT],
                cwd=folder,
                stdout=stream,
                stderr=stream,
                env={**os.environ, "TMPDIR": str(folder)},
            )

    def workers(self, parent: int | None = None) -> list[int]:
        """Processes that train, and those that read pictures for them; or the children of one alone."""
        command = ["ps", "-ww", "-eo", "pid=,ppid=,args="]
        listing = subprocess.run(command, capture_output=True, text=True).stdout
        found = (line.split() for line in listing.splitlines() if str(self.folder) in line)
        return [
            int(words[0])
            for words in found
            if "semseg_automl.training.worker" in words and parent in (None, int(words[1]))
        ]

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + 300
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; the exit status and the seconds until then."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(60)
        return code, time.monotonic() - started


@pytest.fixture
def fit(textures: pd.DataFrame, tmp_path: Path) -> Iterator[Fit]:
    textures.to_csv(tmp_path / "train.csv", index=False)
    running = Fit(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()
    for pid in running.workers():
        os.kill(pid, signal.SIGKILL)


def check_stored(fit: Fit, table: pd.DataFrame) -> None:
    text = fit.log.read_text()
    assert "Interrupted: the best model so far is kept" in text and "went on" not in text, text
    loaded = SemanticSegmentor.load(fit.folder / "m", verbosity=0)
    assert loaded.fit_summary(show=False)["state"] == "interrupted"
    assert len(loaded.predict(table)) == len(table)


def test_in_the_middle_of_training(fit: Fit, textures: pd.DataFrame) -> None:
    fit.wait_for(fit.state)
    assert len(fit.workers()) == 4  # two that train, one that reads for each
    code, seconds = fit.end()
    assert code == -signal.SIGTERM and seconds < LIMIT, fit.log.read_text()
    check_stored(fit, textures)
    assert not fit.workers() and not list(fit.folder.glob("semseg-training-*"))


def test_a_process_that_hangs(fit: Fit, textures: pd.DataFrame) -> None:
    """The other waits for it and can't hand over: the last validated weights are kept."""
    fit.wait_for(fit.state)
    os.kill(fit.workers(parent=fit.process.pid)[1], signal.SIGSTOP)
    time.sleep(1.0)
    code, seconds = fit.end()
    assert code == -signal.SIGTERM and seconds < LIMIT, fit.log.read_text()
    check_stored(fit, textures)
    assert "were told to end at once and did not" in fit.log.read_text()
    assert not fit.workers()


def test_before_anything_is_trained(fit: Fit) -> None:
    """Processes that still import torch are not waited for; that there is no model is told."""
    while not (started := list(fit.folder.glob("semseg-training-*/worker-1.log"))):
        assert fit.process.poll() is None, fit.log.read_text()
        time.sleep(0.05)
    code, seconds = fit.end()
    text = fit.log.read_text()
    assert started and code == -signal.SIGTERM and seconds < LIMIT, text
    assert "No model could be trained" in text and "went on" not in text
    assert not (fit.folder / "m" / "current.json").exists() and not fit.workers()


def test_its_parent_is_killed(fit: Fit) -> None:
    """Nobody is left to tell them: they notice it themselves."""
    fit.wait_for(fit.state)
    fit.end(signal.SIGKILL)
    deadline = time.monotonic() + LIMIT
    while fit.workers():
        assert time.monotonic() < deadline, fit.workers()
        time.sleep(0.2)
