"""The table of adapters: which run comes next, how the rate is chosen, what the page says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.quality import trainings
from benchmarks.quality.adapters import (
    COMMON,
    METHODS,
    RESULTS,
    SECONDS,
    SETS,
    TUNING_SEED,
    Run,
    chosen_rate,
    load,
    page,
    pending,
    steps_of,
)
from benchmarks.quality.trainings import Order, Training, execute, keep, side_by_side
from semseg_automl.core.config import RunConfig
from semseg_automl.estimator._rules import check_hyperparameter
from semseg_automl.metrics.registry import METRICS
from semseg_automl.peft.registry import ADAPTERS, resolve_method
from semseg_automl.search import run as search_run

METHOD = "lora"
FACTS: dict[str, Any] = {
    "n_trainable": 1000,
    "seconds_per_step": 0.5,
    "peak_memory_mb": 900.0,
    "steps": 170,
    "hardware": {"processor": "a CPU", "capability": "AVX2"},
}


def result(run: Run, validation: float, test: float | None = None) -> dict[str, Any]:
    return {
        "set": run.set,
        "method": run.method,
        "rate": run.rate,
        "seed": run.seed,
        "seconds": run.seconds,
        "validation_score": validation,
        "test_score": test,
        **FACTS,
    }


def todo(results: Path, seeds: int = 2) -> list[Run]:
    return list(pending(["camvid"], [METHOD], seeds, 5.0, results))


def test_rates_are_tried_first_and_the_best_is_run_with_seeds(tmp_path: Path) -> None:
    runs = todo(tmp_path)
    assert [run.rate for run in runs] == list(METHODS[METHOD].rates) and all(run.tuning for run in runs)
    for run, score in zip(runs[:2], (0.4, 0.6), strict=True):
        keep(result(run, score), run.path(tmp_path))
    assert chosen_rate("camvid", METHOD, 5.0, tmp_path) is None
    assert todo(tmp_path) == runs[2:]
    keep({"set": "camvid", "method": METHOD, "error": "no memory"}, runs[2].path(tmp_path))  # counts as worst
    finals = todo(tmp_path)
    assert [(run.rate, run.seed) for run in finals] == [(runs[1].rate, 0), (runs[1].rate, 1)]
    keep(result(finals[0], 0.6, 0.5), finals[0].path(tmp_path))
    assert todo(tmp_path) == finals[1:]
    keep(result(finals[1], 0.6, 0.7), finals[1].path(tmp_path))
    assert todo(tmp_path) == [] and [run.seed for run in todo(tmp_path, seeds=3)] == [2]
    assert not list(tmp_path.rglob("*.part"))


def test_the_page_shows_means_errors_and_what_was_not_run(tmp_path: Path) -> None:
    for seed, score in ((TUNING_SEED, None), (0, 0.5), (1, 0.7)):
        run = Run(set="camvid", method=METHOD, rate=1e-3, seed=seed, seconds=5.0)
        keep(result(run, 0.6, score), run.path(tmp_path))
    other = Run(set="camvid", method=METHOD, rate=1e-3, seed=2, seconds=9.0)
    keep(result(other, 0.6, 0.9), other.path(tmp_path))  # another time limit: not on this page
    failed = Run(set="camvid", method="full", rate=1e-3, seed=0, seconds=5.0)
    keep({**result(failed, 0.0), "error": "no memory"}, failed.path(tmp_path))
    lines = page(tmp_path, 5.0).splitlines()
    row = next(line for line in lines if line.startswith(f"| {METHOD} |"))
    assert row == "| lora | - | - | 0.600 ± 0.100 (2), rate 0.001 | 1,000 | 0.50 | 900 | 170 |"
    assert any(line.startswith("| full (1 runs failed) | - | - | -") for line in lines)
    assert sum(line.startswith("| ") for line in lines) == len(METHODS) + 1


def test_no_two_runs_share_a_file() -> None:
    runs = [
        Run(set=set_, method=name, rate=rate, seed=seed, seconds=5.0)
        for set_ in SETS
        for name, method in METHODS.items()
        for rate in method.rates
        for seed in (TUNING_SEED, 0, 1)
    ]
    assert len({run.path(RESULTS) for run in runs}) == len(runs)
    assert load(runs[0], Path("/nowhere")) is None


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_a_valid_configuration(name: str) -> None:
    method = METHODS[name]
    assert len(method.rates) == 3
    for rate in method.rates:
        changes = {**COMMON, **method.hyperparameters, method.rate: rate}
        for key, value in changes.items():
            check_hyperparameter(key, value)
        resolve_method(RunConfig().replace(**changes).adapter)


def test_by_steps_each_run_has_what_two_minutes_hold(tmp_path: Path) -> None:
    cost = {"methods": {METHOD: {"seconds_per_step": 0.51}}, "hardware": FACTS["hardware"]}
    steps = steps_of(cost)
    assert steps == {METHOD: 200}  # 0.85 * 120 / 0.51
    runs = list(pending(["camvid"], [METHOD], 1, SECONDS, tmp_path, steps))
    assert all(run.steps == 200 for run in runs) and runs[0].training("sam_tiny").seconds is None
    by_clock = Run(set="camvid", method=METHOD, rate=1e-3, seed=0, seconds=SECONDS).training("sam_tiny")
    assert by_clock.seconds == SECONDS and by_clock.steps is None and by_clock.test
    assert not runs[0].training("sam_tiny").test  # rates are chosen without the test table


def test_a_training_by_steps_has_so_many(
    textures: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fewer or more than an epoch, whatever the planner would choose; plans are as before afterwards."""
    monkeypatch.setattr(trainings, "tables", lambda _training: (textures, textures, textures))
    made = search_run.make_plan
    small = {"image_size": 64, "num_experts": 2, "rank": 4}
    for steps in (1, 13):
        training = Training(
            set="textures",
            metric="mean_iou",
            hyperparameters=small,
            steps=steps,
            test=True,
            backbone="sam_tiny",
        )
        found = execute(training)
        assert found["steps"] == steps and found["precision"] == "32-true"
        assert 0 <= found["test_score"] <= 1 and search_run.make_plan is made


def test_several_at_once_keep_results_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMSEG_AUTOML_DATA", str(tmp_path))
    training = Training(set="missing", metric="iou", hyperparameters={}, steps=1)
    order = Order(training=training, path=tmp_path / "one.json", about={"method": METHOD})
    assert side_by_side([order], 1, until=math.inf) == 0
    kept = json.loads(order.path.read_text(encoding="utf-8"))
    assert kept["method"] == METHOD and "FileNotFoundError" in kept["error"] and kept["processes"] == 1
    order.path.unlink()
    assert side_by_side([order], 1, until=0.0) == 1 and not order.path.exists()


def test_every_adapter_has_a_row() -> None:
    assert {method.hyperparameters["adapter"] for method in METHODS.values()} == set(ADAPTERS)
    assert set(SETS.values()) <= set(METRICS)
