"""Kill a process that saves two models in turn, N times, and load what is left; print what happened as JSON.

    python -m tests.chaos.kill_saves COUNT SEED

The parent keeps both models ready and forks, so that each child costs no imports. POSIX only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semseg_automl import SemanticSegmentor
from semseg_automl.artifacts.layout import PART, SCRATCH, VERSION_NAME
from semseg_automl.estimator import _store
from tests.small_model import picture, small_model

LONGEST = 0.12
"""Seconds that a child saves at most before it is killed: a few saves."""


def run(count: int, seed: int) -> dict[str, Any]:
    """How often each model was found, every failure in words, and how many kills came amid a write."""
    torch.set_num_threads(1)  # a forked child could not use a pool of threads
    rng, image = random.Random(seed), picture()
    models = [small_model(seed=0), small_model(seed=1)]
    ready = [(model, model.segmenter()) for model in models]
    found, failures, amid = Counter[str](), [], 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        masks = []
        for n, (model, network) in enumerate(ready):
            _store.write(root / f"truth{n}", model, segmenter=network)
            masks.append(SemanticSegmentor.load(root / f"truth{n}", verbosity=0).predict(image))
        if np.array_equal(*masks):
            failures.append("the two models can't be told apart")
        folder = root / "model"
        _store.write(folder, models[0], segmenter=ready[0][1])
        for n in range(count):
            _kill_one(folder, ready if rng.random() < 0.5 else ready[::-1], rng.uniform(0, LONGEST))
            amid += _left_amid(folder)
            found[_find(folder, image, masks, failures, n)] += 1
    return {"count": count, "found": dict(found), "killed_amid_a_write": amid, "failures": failures}


def _kill_one(folder: Path, models: list[Any], seconds: float) -> None:
    """Fork a child that saves for ever, and send it SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                for model, network in models:
                    _store.write(folder, model, segmenter=network)
                    _store.write_summary(folder, [], {"best_model": "default"})
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _left_amid(folder: Path) -> bool:
    """Whether the folder shows that a write was cut off: scratch, or two versions."""
    names = [p.name for p in folder.iterdir()]
    versions = sum(bool(VERSION_NAME.fullmatch(name)) for name in names)
    cut = versions > 1 or any(name.startswith((SCRATCH, PART)) for name in names)
    for name in names:
        if name.startswith(SCRATCH):
            shutil.rmtree(folder / name)  # leave nothing to be counted again
        elif name.startswith(PART):
            (folder / name).unlink()
    return cut


def _find(folder: Path, image: np.ndarray, masks: list[np.ndarray], failures: list[str], n: int) -> str:
    try:
        mask = SemanticSegmentor.load(folder, verbosity=0).predict(image)
    except Exception as error:
        failures.append(f"kill {n}: {type(error).__name__}: {error}")
        return "nothing"
    for number, truth in enumerate(masks):
        if np.array_equal(mask, truth):
            return f"model {number}"
    failures.append(f"kill {n}: a model that was never saved")
    return "another"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(int(sys.argv[1]), int(sys.argv[2])), indent=1) + "\n")
