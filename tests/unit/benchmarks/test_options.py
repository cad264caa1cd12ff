"""The table of Conv-LoRA's options: pairs of seeds, differences from the learned gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality import options
from benchmarks.quality.options import BASE, BESIDE, COMMON, DENSE, OPTIONS, Run, page
from semseg_automl.core.config import RunConfig


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two seeds of the base, one and a half of an option."""
    monkeypatch.setattr(options, "RESULTS", tmp_path)
    scores = {(BASE, 0): 0.5, (BASE, 1): 0.7, ("GELU", 0): 0.6, ("GELU", 1): 0.76, ("GELU", 2): 0.9}
    for (option, seed), score in scores.items():
        run = Run(set="leaf_disease", option=option, seed=seed)
        run.path.parent.mkdir(parents=True, exist_ok=True)
        found = {"set": run.set, "option": option, "seed": seed, "validation_score": score}
        run.path.write_text(json.dumps(found), encoding="utf-8")
    return tmp_path


def test_differences_are_of_pairs_of_seeds(results: Path) -> None:
    rows = {line.split(" | ")[0].strip("| "): line for line in page().splitlines() if line.startswith("| ")}
    assert "0.600 ± 0.100 (2)" in rows[BASE]
    assert "+0.080 ± 0.020 (2)" in rows["GELU"]  # the third seed has no base beside it
    assert rows["dense routing"].endswith("| - |")
    assert set(OPTIONS) <= set(rows)


def test_what_is_asked_of_dense_routing_is_compared_with_dense_routing(results: Path) -> None:
    for option, score in ((DENSE, 0.6), ("dense, rank 4", 0.65)):
        run = Run(set="leaf_disease", option=option, seed=1)
        found = {"set": run.set, "option": option, "seed": 1, "validation_score": score}
        run.path.write_text(json.dumps(found), encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in page().splitlines() if line.startswith("| ")}
    assert rows["dense, rank 4"].endswith("| +0.050 (1) |") and rows[DENSE].endswith("| -0.100 (1) |")


def test_what_is_compared_differs_in_one_option_alone() -> None:
    for option, beside in BESIDE.items():
        changed = OPTIONS[option].keys() - OPTIONS[beside].keys()
        assert OPTIONS[beside].items() <= OPTIONS[option].items()
        assert changed == {"scales", "num_experts"} or len(changed) == (option != beside)


def test_options_are_hyperparameters_and_have_files_of_their_own() -> None:
    runs = [Run(set="wbc_1", option=option, seed=0) for option in OPTIONS]
    assert len({run.path for run in runs}) == len(runs)
    configs = [RunConfig().replace(**{**COMMON, **changes}) for changes in OPTIONS.values()]
    assert len(set(configs)) == len(configs) and configs[0] == RunConfig().replace(**COMMON)
