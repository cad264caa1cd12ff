"""Two fits into one folder, and a fit that is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ArtifactError
from semseg_automl.estimator._lock import HOLDER, hold
from tests.integration.quick import NO_SEARCH, tiny

HOLD = (
    "import sys, time; from pathlib import Path; from semseg_automl.estimator._lock import hold\n"
    "with hold(Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(120)"
)


def test_a_second_fit_into_a_folder_is_refused_until_the_first_is_gone(
    textures: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(
            ArtifactError, match=rf"in use: process {other.pid}, started 20\d\d-.* choose another"
        ):
            tiny(folder).fit(textures, **NO_SEARCH)
    finally:
        other.kill()  # without a chance to tidy up
        other.wait()
    seg = tiny(folder).fit(textures, **NO_SEARCH)
    assert len(seg.predict(textures)) == len(textures) and not (folder / HOLDER).exists()


def test_a_fit_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold(tmp_path):
        with pytest.raises(ArtifactError, match="in use"), hold(tmp_path):
            pass
        raise RuntimeError
    with hold(tmp_path):
        assert (tmp_path / HOLDER).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")
def test_sigterm_stores_the_model_and_then_ends_the_process(textures: pd.DataFrame, tmp_path: Path) -> None:
    textures.to_csv(tmp_path / "train.csv", index=False)
    code = (
        "from semseg_automl import SemanticSegmentor\n"
        "seg = SemanticSegmentor(backbone='sam_tiny', path='m', verbosity=3)\n"
        "seg.fit('train.csv', hyperparameters={'image_size': 64, 'max_epochs': 100000}, "
        "hyperparameter_tune_kwargs=None)\n"
        "print('went on')"
    )
    command = [sys.executable, "-u", "-c", code]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines, told = [], 0.0
    try:
        for line in process.stdout or ():
            lines.append(line)
            if "Plan: 1 model" in line:
                time.sleep(1.0)  # in the middle of training
                process.send_signal(signal.SIGTERM)
                told = time.monotonic()
        assert process.wait(60) == -signal.SIGTERM, "".join(lines)
        assert told and time.monotonic() - told < 10
    finally:
        process.kill()
    assert "Interrupted: the best model so far is kept" in "".join(lines) and "went on" not in "".join(lines)
    loaded = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert loaded.fit_summary(show=False)["state"] == "interrupted" and len(loaded.predict(textures)) == 12
