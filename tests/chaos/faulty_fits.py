"""Fit N times, each time with a fault at a random moment, and judge how it ends; print that as JSON.

    python -m tests.chaos.faulty_fits COUNT SEED

A fit must end in a model that predicts, the same from memory and from disk, or in a SemsegError that says
what is kept and where, which must be so; no process that reads pictures may be left behind.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import SemsegError
from semseg_automl.core.log import LOGGER_NAME
from semseg_automl.data import images
from semseg_automl.data.datasets import make_textures
from tests.chaos.faults import FAULTS, killed_reader, lost_picture
from tests.integration.quick import tiny

HYPER = {"max_epochs": 3, "image_size": 64, "num_experts": 2, "rank": 2, "batch_size": 2}
MODEL, ERROR = "a model that predicts", "an error that says what is kept"


class _Told(logging.Handler):
    """Collects what the library says."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


def run(count: int, seed: int) -> dict[str, Any]:
    """Endings by fault, what was wrong with any in words, the seconds of the longest, every fit in a line."""
    torch.set_num_threads(1)
    endings, failures, lines, slowest = Counter[str](), [], [], 0.0
    for number in range(count):
        fault = FAULTS[number % len(FAULTS)].__name__
        started = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            what, ending, problem = _one(number, seed, Path(scratch))
        slowest = max(slowest, time.process_time() - started)
        endings[f"{fault}: {ending}"] += 1
        lines.append(f"{number}: {what}: {ending}")
        if problem:
            failures.append(f"seed {seed}, number {number}: {what}: {problem}")
    return {
        "count": count,
        "seed": seed,
        "endings": dict(sorted(endings.items())),
        "failures": failures,
        "slowest_cpu_seconds": round(slowest, 1),
        "fits": lines,
    }


def _one(number: int, seed: int, scratch: Path) -> tuple[str, str, str]:
    """What was done, how it ended, and what was wrong with that ("" if nothing)."""
    fault, rng = FAULTS[number % len(FAULTS)], random.Random(f"{seed}/{number}")
    table = make_textures(scratch / "pictures", n=6, size=(64, 64), n_classes=3, seed=0)
    pristine = [np.array(images.read_image(name)) for name in table["image"]]
    tune = {"num_trials": 2} if rng.random() < 0.3 else None
    readers = {killed_reader: 2, lost_picture: rng.choice((0, 1))}.get(fault, 0)
    path, told, what = scratch / "m", _Told(), fault.__name__
    logger = logging.getLogger(LOGGER_NAME)
    logger.addHandler(told)
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(tempfile, "tempdir", str(scratch))  # where a model may be rescued to
            what = fault(monkeypatch, table, rng)
            try:
                seg = tiny(path, verbosity=1).fit(
                    table,
                    hyperparameters=HYPER,
                    hyperparameter_tune_kwargs=tune,
                    devices="cpu",
                    num_workers=readers,
                )
            except SemsegError as error:
                seg, message = None, str(error)
        what += f" ({'2 trials' if tune else 'no search'}, {readers} readers)"
        if seg is None:
            return what, ERROR, _problem_of_error(message, path, pristine)
        return what, MODEL, _problem_of_model(seg, path, pristine, told.text)
    except Exception:
        return what, "another exception", traceback.format_exc(limit=-6)
    finally:
        logger.removeHandler(told)


def _problem_of_model(seg: SemanticSegmentor, path: Path, pristine: list[np.ndarray], told: str) -> str:
    masks = seg.predict(pristine)
    stored = seg.path_
    if not (stored / "current.json").is_file():
        if "only in this process" not in told:
            return "the model is not stored, and that is not told"
        stored = seg.save(path / "later")
    again = SemanticSegmentor.load(stored, verbosity=0).predict(pristine)
    if not all(np.array_equal(a, b) for a, b in zip(masks, again, strict=True)):
        return "the stored model predicts other masks"
    if multiprocessing.active_children():
        return f"left behind: {multiprocessing.active_children()}"
    return ""


def _problem_of_error(message: str, path: Path, pristine: list[np.ndarray]) -> str:
    if "Traceback" in message:
        return f"a traceback in a message: {message}"
    if f"The best model so far is kept in {path}" in message:
        SemanticSegmentor.load(path, verbosity=0).predict(pristine)
    elif f"No model is kept in {path}" not in message or (path / "current.json").exists():
        return f"what is kept is not told, or told wrongly: {message}"
    if ("resume=True" in message) != any((path / "search").glob("*.safetensors")):
        return f"what can be resumed is not told, or told wrongly: {message}"
    return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(int(sys.argv[1]), int(sys.argv[2])), indent=1) + "\n")
