"""The verbs on CUDA: fit, predict, evaluate, save, load on a CPU; search, clock, seeds, doctor."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.cli import main
from tests.integration.quick import ROOT, tiny

pytestmark = pytest.mark.gpu

HYPER: dict[str, Any] = {"max_epochs": 4, "image_size": 128, "num_experts": 2, "rank": 4, "augment": "light"}
NO_SEARCH: dict[str, Any] = {"hyperparameters": HYPER, "hyperparameter_tune_kwargs": None}


def agreement(first: pd.Series, second: pd.Series) -> float:
    """Share of pixels with the same label."""
    same = [np.equal(a, b) for a, b in zip(first, second, strict=True)]
    return float(np.concatenate([s.ravel() for s in same]).mean())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, textures: pd.DataFrame) -> SemanticSegmentor:
    return tiny(tmp_path_factory.mktemp("gpu") / "model").fit(textures, devices="auto", **NO_SEARCH)


def test_auto_is_cuda_and_says_so(fitted: SemanticSegmentor) -> None:
    summary = fitted.fit_summary(show=False)
    assert summary["device"].startswith("cuda:")
    assert summary["precision"] in ("32-true", "bf16-mixed")
    assert fitted._get_predictor().device.type == "cuda"
    assert fitted.leaderboard()["peak_memory_mb"].max() > 1.0


def test_a_saved_model_is_the_same_on_a_cpu(
    fitted: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    masks, scores = fitted.predict(textures), fitted.evaluate(textures)
    loaded = SemanticSegmentor.load(fitted.save(tmp_path / "copy"), verbosity=0, devices="cpu")
    assert loaded._get_predictor().device.type == "cpu"
    assert agreement(masks, loaded.predict(textures)) > 0.995
    assert loaded.evaluate(textures)["mean_iou"] == pytest.approx(scores["mean_iou"], abs=0.005)
    difference = max(
        float(np.abs(a - b).max())
        for a, b in zip(fitted.predict_proba(textures), loaded.predict_proba(textures), strict=True)
    )
    assert difference < 0.02


FRESH = """
import sys
import pandas as pd
from semseg_automl import SemanticSegmentor
model = SemanticSegmentor.load(sys.argv[1], verbosity=0)
print(model._get_predictor().device.type, model.evaluate(pd.read_csv(sys.argv[2]))["mean_iou"])
"""


@pytest.mark.parametrize("visible", [True, False], ids=["with the GPU", "without"])
def test_a_fresh_process_loads_it(
    fitted: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path, visible: bool
) -> None:
    textures.to_csv(tmp_path / "table.csv", index=False)
    environment = dict(os.environ) if visible else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", FRESH, str(fitted.path_), str(tmp_path / "table.csv")]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    device, score = done.stdout.split()
    assert device == ("cuda" if visible else "cpu")
    assert float(score) == pytest.approx(fitted.evaluate(textures)["mean_iou"], abs=0.005)


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("head", ["semantic", "mask_classification"])
def test_other_methods_and_heads(adapter: str, head: str, textures: pd.DataFrame, tmp_path: Path) -> None:
    hyper = {**HYPER, "max_epochs": 2, "adapter": adapter, "head": head, "gradient_checkpointing": True}
    seg = tiny(tmp_path / "m").fit(textures, hyperparameters=hyper, hyperparameter_tune_kwargs=None)
    assert math.isfinite(seg.best_score_) and seg.predict(textures).iloc[0].shape == (64, 80)


def test_tiles_and_flips_equal_the_cpus(fitted: SemanticSegmentor, textures: pd.DataFrame) -> None:
    on_cpu = SemanticSegmentor.load(fitted.path_, verbosity=0, devices="cpu")
    for options in ({"tile": 64}, {"tta": "flips_and_scales"}):
        masks = [seg.predict(textures[:3], **options) for seg in (fitted, on_cpu)]
        assert agreement(*masks) > 0.995


def test_search_on_one_worker(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(
        textures,
        hyperparameters={**HYPER, "max_epochs": 2},
        hyperparameter_tune_kwargs={"num_trials": 3, "num_workers": 1},
    )
    board = seg.leaderboard()
    assert board["score_val"].notna().sum() >= 3 and not board["reason"].str.contains("memory").any()


@pytest.mark.weights
def test_the_time_limit_is_kept(textures: pd.DataFrame, tmp_path: Path) -> None:
    """With a search, in paused trials that go on from their states, real weights and readers."""
    limit, started = 20.0, time.monotonic()
    seg = tiny(tmp_path / "m", backbone="mobile_sam").fit(
        textures, time_limit=limit, hyperparameter_tune_kwargs={"num_trials": 3}
    )
    taken = time.monotonic() - started
    summary = seg.fit_summary(show=False)
    sys.stdout.write(f"{taken:.1f} s: {summary['seconds']}; {summary['plan']}\n")
    assert taken <= 1.05 * limit + 5.0
    assert summary["n_models"] >= 2 and math.isfinite(seg.best_score_)


def test_the_same_seed_twice(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Not to the bit (see docs/training_on_gpus.md): the difference is printed, the scores are close."""
    first, second = (tiny(tmp_path / str(k)).fit(textures, **NO_SEARCH) for k in range(2))
    pairs = [(first._model.state.adapter, second._model.state.adapter)]
    pairs.append((first._model.state.head, second._model.state.head))
    largest = max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in a)
    same = agreement(first.predict(textures), second.predict(textures))
    sys.stdout.write(f"one seed twice: weights differ by {largest:.2e}, {same:.2%} of the pixels agree, ")
    sys.stdout.write(f"scores {first.best_score_:.4f} and {second.best_score_:.4f}\n")
    assert abs(first.best_score_ - second.best_score_) <= 0.05


def test_doctor_names_the_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    assert [gpu["name"] for gpu in found["gpus"]] == names
    assert found["gpus"][0]["memory"] == pytest.approx(torch.cuda.mem_get_info(0)[1], rel=0.02)
    assert found["cuda"] == torch.version.cuda and found["device"].startswith("cuda:")
    assert main(["doctor"]) == 0
    assert names[0] in capsys.readouterr().out
