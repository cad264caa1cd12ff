"""Training in several processes: the same as in one, from a plain script, and never a hang."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import DataError, TrainingError
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.training import launch, worker
from semseg_automl.training.fit import train
from semseg_automl.training.job import Hooks, TrainJob
from semseg_automl.training.launch import train_on_devices

STEPS = 20


@pytest.fixture
def job(binary_textures: pd.DataFrame) -> TrainJob:
    """Twenty steps of dense Conv-LoRA on small pictures; nothing in the network is random."""
    samples = check_table(binary_textures, need_label=True)
    config = RunConfig().replace(
        backbone="sam_tiny", routing="dense", num_experts=2, rank=4, image_size=64, batch_size=4
    )
    config = config.replace(loss="structure", augment="light", balance_weight=0.0, ema_decay=0.9)
    return TrainJob(
        config=config,
        label_map=infer_label_map(scan_masks(samples.masks or ())),
        train=samples.subset(range(9)),
        val=samples.subset(range(9, 12)),
        weights=resolve_weights("sam_tiny"),
        eval_metric="iou",
        max_steps=STEPS,
        device_ids=(0, 1),
    )


def test_two_processes_equal_one(job: TrainJob) -> None:
    together, alone = train_on_devices(job), train(job)
    assert together.steps == alone.steps == STEPS
    assert [step for step, _, _ in together.history] == [step for step, _, _ in alone.history]
    for part in ("adapter", "head"):
        ours, theirs = getattr(together.model, part), getattr(alone.model, part)
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=0, atol=1e-5, msg=lambda m, n=name: n + m
            )
    moved = alone.model.adapter
    assert any(moved[name].abs().max() > 1e-3 for name in moved if name.endswith("up"))  # it did train
    assert together.score == pytest.approx(alone.score, abs=1e-4)


def test_a_stop_request_reaches_all(job: TrainJob) -> None:
    """Micro-batches, an odd batch size, random gates, a clock of its own: and both end at one step."""
    events: list[Any] = []
    hooks = Hooks(progress=events.append, stop_requested=lambda: len(events) > 2, remaining=_countdown(300.0))
    config = job.config.replace(routing="learned", batch_size=3, micro_batch_size=1, balance_weight=1.0)
    result = train_on_devices(replace(job, config=config, max_steps=100_000), hooks)
    assert result.state == "interrupted"
    assert 0 < result.steps < 100_000
    assert result.history[-1][0] == result.steps  # the last step was validated
    noise = [t for name, t in result.model.adapter.items() if name.endswith("gate.noise")]
    assert noise and all(t.abs().max() > 0 for t in noise)  # gates were noisy, and balanced
    assert {"step", "fraction", "score", "loss", "left"} <= set(events[-1])


def _countdown(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


def test_a_process_that_dies_is_an_error(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(launch.subprocess, "Popen", Recorded)
    hooks = Hooks(progress=lambda _event: started[1].kill())
    with pytest.raises(TrainingError, match="process 1 of 2 died"):
        train_on_devices(replace(job, max_steps=100_000), hooks)
    assert all(process.poll() is not None for process in started)


def _raised(path: Path, *errors: Exception | None) -> Exception:
    """What the launcher makes of processes that left these errors (None: died without one)."""
    for rank, error in enumerate(errors):
        (path / f"worker-{rank}.log").write_text(f"line of {rank}")
        if error is not None:
            worker._leave_error(path, rank, error)
    return launch._failure([1] * len(errors), path)


def test_the_first_cause_is_raised(tmp_path: Path) -> None:
    missing = DataError("/nowhere/a.png: no such file")
    raised = _raised(tmp_path, missing, RuntimeError("Connection closed by peer"))
    assert isinstance(raised, DataError) and str(raised) == str(missing)


def test_a_silent_death_comes_before_its_consequences(tmp_path: Path) -> None:
    raised = _raised(tmp_path, RuntimeError("Connection closed by peer"), None)
    assert isinstance(raised, TrainingError)
    assert "process 1 of 2 died" in str(raised) and "line of 1" in str(raised)


def test_the_cause_of_a_training_error_survives(tmp_path: Path) -> None:
    error = TrainingError("Training stopped: the loss is nan.")
    error.__cause__ = FloatingPointError("the loss is nan")
    raised = _raised(tmp_path, error, RuntimeError("later"))
    assert str(raised) == str(error) and isinstance(raised.__cause__, FloatingPointError)


def test_other_errors_come_with_the_last_lines(tmp_path: Path) -> None:
    raised = _raised(tmp_path, RuntimeError("CUDA out of memory"), RuntimeError("later"))
    assert isinstance(raised, TrainingError)
    assert "CUDA out of memory" in str(raised) and "line of 0" in str(raised)


def test_too_little_time_for_processes(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_train_in_processes", None)
    result = train_on_devices(replace(job, max_steps=2), Hooks(remaining=_countdown(20.0)))
    assert result.steps == 2


def test_the_batch_is_shared_evenly(job: TrainJob) -> None:
    odd = replace(job, config=job.config.replace(batch_size=5))
    assert launch.shared_evenly(odd).config.optim.batch_size == 6
    assert launch.shared_evenly(job) is job


SCRIPT = """
import numpy as np, pandas as pd
from pathlib import Path
from semseg_automl import SemanticSegmentor, datasets
from PIL import Image

print("script runs")
files = datasets.make_textures("textures", n=8, size=(48, 64), n_classes=2, seed=0)
table = pd.DataFrame({
    "image": [np.asarray(Image.open(p)) for p in files["image"]],
    "label": [Image.open(p) for p in files["label"]],
})
model = SemanticSegmentor(backbone="sam_tiny", path="model", verbosity=2)
model.fit(table, devices="cpu:2", hyperparameters={"max_epochs": 2, "image_size": 64},
          hyperparameter_tune_kwargs=None)
print(model.predict(table).iloc[0].shape, model.best_score_)
"""


def test_fit_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("script runs") == 1
    shape, score = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert shape == "(48, 64)" and math.isfinite(float(score))
    assert not list(tmp_path.glob("semseg-training-*"))  # its files are gone
