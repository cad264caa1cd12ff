"""The heads' benchmark: twins differ in the head alone."""

from __future__ import annotations

import pytest

from benchmarks.quality.heads import QUERIES, Run, page
from semseg_automl.core.config import RunConfig


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_and_its_twin_differ_in_the_head_alone(queries: int, seed: int) -> None:
    run = Run(queries=queries, seed=seed)
    training, twin = run.training(), run.twin
    config, other = (RunConfig().replace(**h) for h in (training.hyperparameters, twin["hyperparameters"]))
    assert (training.steps, training.seed, twin["seed"]) == (twin["steps"], seed, seed)
    assert config.model.head == "mask_classification" and config.model.num_queries == queries
    assert config == other.replace(head="mask_classification", num_queries=queries)


def test_the_table_has_a_row_a_head() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(QUERIES) and all(line.count("|") == 5 for line in rows)
