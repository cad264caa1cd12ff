"""The search against the default recipe in the same time, and against a wrong default.

    python benchmarks/search/against_default.py [--sets NAME ...] [--seeds 3] [--limit 300]

Per set and seed: the default alone (``hyperparameter_tune_kwargs=None``), a search, and a search whose
default has a learning rate 30 times too high or too low. Bars: the paired mean difference between
search and default above minus one standard error on each set and above zero over all; a wrong default
costs at most 2 points. The test tables are scored once each, at the end of a run. Writes
results/against_default.json with every search's score over time, and results/anytime.png; what is
there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from record import RESULTS, fitted, load, run_once

SETS = ("leaf_disease", "polyp_clinicdb", "camvid")
RATE = 1e-3  # of the default recipe


def variants() -> dict[str, dict[str, Any]]:
    """Arguments of ``fit`` by name."""
    search: dict[str, Any] = {"hyperparameter_tune_kwargs": {}}
    return {
        "default": {"hyperparameter_tune_kwargs": None},
        "search": search,
        "wrong_high": {**search, "wrong_default": 30.0},
        "wrong_low": {**search, "wrong_default": 1 / 30.0},
    }


def one(arguments: dict[str, Any]) -> dict[str, Any]:
    """One fit; ``wrong_default`` multiplies the recipe's learning rate before the package is used."""
    import dataclasses

    factor = arguments["fit"].pop("wrong_default", None)
    if factor is not None:
        from semseg_automl.search import planner

        made = planner.make_plan

        def wrong(*given: Any) -> Any:
            plan = made(*given)
            config = plan.config.replace(learning_rate=factor * RATE)
            return dataclasses.replace(plan, config=config)

        from semseg_automl.search import run

        run.make_plan = wrong
    return fitted(arguments)


def summary(sets: list[str], seeds: int) -> int:
    """Print the table; the number of bars that are missed."""
    runs, missed, pooled = load("against_default")["runs"], 0, []
    for name in sets:
        scores = {v: [runs[f"{name} {v} {seed}"]["score_test"] for seed in range(seeds)] for v in variants()}
        gains = [s - d for s, d in zip(scores["search"], scores["default"], strict=True)]
        pooled += gains
        mean = statistics.mean(gains)
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        missed += mean <= -error
        good = statistics.mean(scores["default"])
        wrong = [statistics.mean(scores[v]) - good for v in ("wrong_high", "wrong_low")]
        missed += sum(w < -0.02 for w in wrong)
        print(f"{name:20} default {good:.4f} search {mean:+.4f} +- {error:.4f} wrong {wrong}")
    missed += statistics.mean(pooled) <= 0
    return missed


def plot(sets: list[str], seeds: int) -> None:
    """Best validation score over time of each search."""
    import matplotlib.pyplot as plt

    runs = load("against_default")["runs"]
    _, axes = plt.subplots(1, len(sets), figsize=(4 * len(sets), 3), squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for variant in variants():
            for seed in range(seeds):
                points = runs[f"{name} {variant} {seed}"]["progress"]
                axis.step([p[0] for p in points], [p[1] for p in points], where="post", label=variant)
        axis.set(title=name, xlabel="seconds", ylabel="validation score")
    plt.savefig(RESULTS / "anytime.png", dpi=100, bbox_inches="tight")


def main() -> int:
    """Run what is missing; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return 0
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            for variant, fit in variants().items():
                spec = {"set": name, "limit": arguments.limit, "seed": seed, "threads": 2}
                key = f"{name} {variant} {seed}"
                run_once("against_default", key, __file__, {**spec, "fit": fit, "test": True})
    missed = summary(arguments.sets, arguments.seeds)
    plot(arguments.sets, arguments.seeds)
    print("bars missed:", missed)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
