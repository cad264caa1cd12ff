"""The search against the default recipe in the same time, and against a wrong default.

    python benchmarks/search/against_default.py [--sets NAME ...] [--seeds 3] [--limit 300] [--table]

Per set and seed: the default alone (``hyperparameter_tune_kwargs=None``) and a search, asked for although the
planner would not search in so short a time. With the first seed also a search whose default has a learning
rate 30 times too high or too low; its space is widened to hold it. Bars: the paired mean difference between
search and default above minus one standard error on each set and above zero over all; a wrong default
costs at most 2 points in the mean over the sets. The test tables are scored once each, at the end of a
run. Writes results/against_default.json with every search's score over time, and results/anytime.png;
what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from record import RESULTS, fitted, load, run_once

SETS = ("leaf_disease", "polyp_clinicdb", "camvid")
WRONG = ("wrong_high", "wrong_low")
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
        from semseg_automl.search.space import Real

        made = planner.make_plan

        def wrong(*given: Any) -> Any:
            plan = made(*given)
            rate = factor * RATE
            space = plan.spaces["learning_rate"]
            wide = Real(min(space.lower, rate), max(space.upper, rate), log=True)
            return dataclasses.replace(
                plan,
                config=plan.config.replace(learning_rate=rate),
                spaces={**plan.spaces, "learning_rate": wide},
            )

        from semseg_automl.search import run

        run.make_plan = wrong
    return fitted(arguments)


def summary(sets: list[str], seeds: int) -> int:
    """Print the table; the number of bars that are missed."""
    runs, missed, pooled = load("against_default")["runs"], 0, []

    def gains(variant: str, name: str, number: int) -> list[float]:
        def test(which: str, seed: int) -> float:
            return float(runs[f"{name} {which} {seed}"]["score_test"])

        return [test(variant, seed) - test("default", seed) for seed in range(number)]

    for name in sets:
        found = gains("search", name, seeds)
        pooled += found
        mean = statistics.mean(found)
        error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
        missed += mean <= -error
        print(f"{name:20} search over default {mean:+.4f} +- {error:.4f}")
    print(f"all sets: search over default {statistics.mean(pooled):+.4f}")
    missed += statistics.mean(pooled) <= 0
    for variant in WRONG:
        ran = sum(all(f"{name} {variant} {seed}" in runs for name in sets) for seed in range(seeds))
        if not ran:
            print(f"{variant} was not run on all sets")
            missed += 1
            continue
        found = [gain for name in sets for gain in gains(variant, name, ran)]
        mean, error = statistics.mean(found), statistics.stdev(found) / len(found) ** 0.5
        missed += mean < -0.02
        print(f"all sets: {variant} over default {mean:+.4f} +- {error:.4f} ({ran} seeds)")
    return missed


def plot(sets: list[str], seeds: int) -> None:
    """Best validation score over time of each search."""
    import matplotlib.pyplot as plt

    runs = load("against_default")["runs"]
    _, axes = plt.subplots(1, len(sets), figsize=(4 * len(sets), 3), squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for variant, colour in zip(variants(), ("C0", "C1", "C2", "C3"), strict=True):
            for seed in range(seeds):
                if f"{name} {variant} {seed}" not in runs:
                    continue
                points = runs[f"{name} {variant} {seed}"]["progress"]
                label = None if seed else variant
                axis.step(*zip(*points, strict=True), where="post", color=colour, label=label)
        axis.set(title=name, xlabel="seconds", ylabel="validation score")
    axes[0, 0].legend()
    plt.savefig(RESULTS / "anytime.png", dpi=100, bbox_inches="tight")


def main() -> int:
    """Run what is missing; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--table", action="store_true", help="only tell the results that are there")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return 0
    seeds = range(arguments.seeds)
    rounds = [(seed, ("default", "search")) for seed in seeds] + [(seed, WRONG) for seed in seeds]
    for seed, names in [] if arguments.table else rounds:
        for name in arguments.sets:
            for variant in names:
                spec = {"set": name, "limit": arguments.limit, "seed": seed, "threads": 2}
                fit = variants()[variant]
                run_once(
                    "against_default",
                    f"{name} {variant} {seed}",
                    __file__,
                    {**spec, "fit": fit, "test": True},
                )
    missed = summary(arguments.sets, arguments.seeds)
    plot(arguments.sets, arguments.seeds)
    print("bars missed:", missed)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
