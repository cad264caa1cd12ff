"""Conv-LoRA's options, one changed at a time, on a real data set: what the defaults rest on.

    python -m benchmarks.quality.options                      what has no result yet, one run at a time
    python -m benchmarks.quality.options --sets crack_forest  on another set
    python -m benchmarks.quality.options --table              write options.md from the results that are there

Start it in the project's root. A run trains for a fixed number of epochs with the learned gate (the library's
default when the first of them were run) and everything but one option at its default, and is judged by its
best validation score; the test tables are not looked at, since the result decides defaults. The time does not
enter into the score, so other work beside it does no harm (seconds a step are then worth nothing). Seeds are
paired: the table holds each option's difference from the learned gate. Rank, place and the non-linearity were
asked again of dense routing, today's default, and are told as differences from that.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.quality.trainings import Order, Training, execute, keep, side_by_side, told

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "options", HERE / "options.md"
METRICS = {
    "leaf_disease": "iou",
    "crack_forest": "iou",
    "wbc_1": "mean_iou",
    "nuclei_dsb2018": "iou",
    "roads_massachusetts": "iou",
    "landcover_dubai": "mean_iou",
}
COMMON: dict[str, Any] = {"image_size": 256, "augment": "light", "max_epochs": 10, "routing": "learned"}
BASE, DENSE = "learned routing", "dense routing"
OPTIONS: dict[str, dict[str, Any]] = {
    BASE: {},
    "gate per window": {"gate_scope": "window"},
    "padding at window borders": {"window_padding": "window"},
    "GELU": {"nonlinearity": "gelu"},
    DENSE: {"routing": "dense"},
    "compat routing": {"routing": "compat"},
    "two experts kept": {"top_k": 2},
    "scales 1, 2, 4": {"scales": (1, 2, 4), "num_experts": 3},
    "scale 1 alone, eight experts": {"scales": (1,) * 8},
    "dense, rank 4": {"routing": "dense", "rank": 4},
    "dense, rank 16": {"routing": "dense", "rank": 16},
    "dense, last four blocks": {"routing": "dense", "placement": "last_4"},
    "dense, all linear layers": {"routing": "dense", "targets": ("q", "k", "v", "proj", "mlp")},
    "dense, GELU": {"routing": "dense", "nonlinearity": "gelu"},
}
BESIDE = {option: DENSE if option.startswith("dense, ") else BASE for option in OPTIONS}
"""Option -> what its scores are compared with."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    set: str
    option: str
    seed: int

    @property
    def path(self) -> Path:
        """Where its result lies."""
        plain = "_".join("".join(c if c.isalnum() else " " for c in self.option).split())
        return RESULTS / self.set / f"{plain}-{self.seed}.json"

    def training(self) -> Training:
        """What is to be trained."""
        return Training(
            set=self.set,
            metric=METRICS[self.set],
            hyperparameters={**COMMON, **OPTIONS[self.option]},
            seed=self.seed,
        )


def page() -> str:
    """The table as Markdown, from the results alone."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*/*.json"))]
    scores = {(r["set"], r["option"], r["seed"]): r["validation_score"] for r in found}
    sets = [name for name in METRICS if any(key[0] == name for key in scores)]
    lines = [
        "# Conv-LoRA's options",
        "Written by `python -m benchmarks.quality.options --table` from the results beside it; don't edit.",
        "",
        f"`mobile_sam`, {COMMON['max_epochs']} epochs, pictures of {COMMON['image_size']} pixels, best",
        "validation score. The learned gate's own score; of an option its mean difference from it over",
        "the seeds that both have, with the standard error (number of seeds). Rows that begin with",
        f'"dense, " are differences from {DENSE}.',
        "",
        f"| option | {' | '.join(f'{name} ({METRICS[name]})' for name in sets)} |",
        "|---" * (len(sets) + 1) + "|",
    ]
    for option in OPTIONS:
        cells = []
        for name in sets:
            mine = {seed: s for (set_, o, seed), s in scores.items() if (set_, o) == (name, option)}
            if option != BASE:
                beside = BESIDE[option]
                mine = {
                    seed: s - scores[name, beside, seed]
                    for seed, s in mine.items()
                    if (name, beside, seed) in scores
                }
            cells.append(told(list(mine.values()), signed=option != BASE))
        lines.append(f"| {option} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run what is missing, seed by seed; write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=METRICS, default=["leaf_disease"])
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after so many")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run = Run(**json.loads(arguments.one))
        keep({**asdict(run), **execute(run.training())}, run.path)
        return 0
    missing = [
        run
        for name in arguments.sets
        for seed in range(arguments.seeds)
        for option in arguments.options
        if not (run := Run(set=name, option=option, seed=seed)).path.exists()
    ]
    failed, until = False, time.time() + 60 * arguments.minutes
    if arguments.processes > 1 and not arguments.table:
        orders = [Order(training=run.training(), path=run.path, about=asdict(run)) for run in missing]
        side_by_side(orders, arguments.processes, until)
        missing = []
    for run in [] if arguments.table else missing:
        print(f"{run.set}, {run.option}, seed {run.seed}", flush=True)
        command = [sys.executable, "-m", "benchmarks.quality.options", "--one", json.dumps(asdict(run))]
        ended = run_apart(command)
        if ended is None:
            return 1
        failed |= ended[0] != 0
        if ended[0]:
            print(f"  failed: {ended[1]}", flush=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(page())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
