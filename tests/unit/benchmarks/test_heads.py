"""The heads' benchmark: twins differ in the head alone."""

from __future__ import annotations

import pytest

from benchmarks.quality.heads import VARIANTS, Run, page
from semseg_automl.core.config import RunConfig


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_and_its_twin_differ_in_the_head_alone(variant: str, seed: int) -> None:
    run = Run(variant=variant, seed=seed)
    training, twin = run.training(), run.twin
    config, other = (RunConfig().replace(**h) for h in (training.hyperparameters, twin["hyperparameters"]))
    assert (training.steps, training.seed, twin["seed"]) == (twin["steps"], seed, seed)
    assert other.model.head == "semantic"
    assert config == other.replace(head="mask_classification", **VARIANTS[variant])


def test_the_table_has_a_row_a_head() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(VARIANTS) and all(line.count("|") == 5 for line in rows)
