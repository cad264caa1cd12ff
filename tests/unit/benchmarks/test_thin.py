"""The thin plan against the plain one: pairs of equal seed, and a bar that both sets must clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality import thin
from benchmarks.quality.thin import SETS, Run
from semseg_automl.search import planner
from semseg_automl.search.planner import Fingerprint, natural_side, train_crop


def _keep(run: Run, score: float) -> None:
    result = {"set": run.set, "plan": run.plan, "seed": run.seed, "seconds": 300.0, "validation_score": score}
    run.path.parent.mkdir(parents=True, exist_ok=True)
    run.path.write_text(
        json.dumps({**result, "test_score": score, "said": ["image_size 704, trained on crops: x"]})
    )


def test_bar_and_table_are_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thin, "RESULTS", tmp_path)
    for name in SETS:
        for seed in range(2):
            _keep(Run(set=name, plan="thin", seed=seed), 0.5 + 0.1 * seed)
            _keep(Run(set=name, plan="plain", seed=seed), 0.4)
    assert thin.met()
    assert f"| {SETS[0]} | thin minus plain | +0.150 ± 0.050 (2) | +0.150 ± 0.050 (2) | |" in thin.page()
    assert (
        f"| {SETS[0]} | thin | 0.550 ± 0.050 (2) | 0.550 ± 0.050 (2) | image_size 704, trained" in thin.page()
    )
    _keep(Run(set=SETS[1], plan="plain", seed=0), 0.9)
    assert not thin.met()  # behind on one of them
    Run(set=SETS[1], plan="plain", seed=0).path.unlink()
    assert not thin.met()  # one seed alone
    assert "(1)" in thin.page()


def test_plain_is_the_plan_for_thick_things(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"n_train": 77, "n_val": 11, "height": 320, "width": 480, "n_classes": 2, "foreground": 0.02}
    cracks, leaves = (Fingerprint(thinness=thinness, **facts) for thinness in (0.005, 0.3))
    before = natural_side(cracks)
    monkeypatch.setattr(planner, "THIN", 0.0)
    assert natural_side(cracks) == natural_side(leaves) != before
    assert train_crop(cracks, 512) == train_crop(leaves, 512)
