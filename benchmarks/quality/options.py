"""Conv-LoRA's options, one changed at a time, on a real data set: what the defaults rest on.

    python -m benchmarks.quality.options                      what has no result yet, one run at a time
    python -m benchmarks.quality.options --sets crack_forest  on another set
    python -m benchmarks.quality.options --table              write options.md from the results that are there

Start it in the project's root. A run trains for a fixed number of epochs, with everything but one option at
its default, and is judged by its best validation score; the test tables are not looked at, since the result
decides defaults. The time does not enter into the score, so other work beside it does no harm (seconds a step
are then worth nothing). Seeds are paired: the table holds each option's difference from the default.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.quality.run import circumstances

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "options", HERE / "options.md"
METRICS = {"leaf_disease": "iou", "crack_forest": "iou", "wbc_1": "mean_iou"}
COMMON: dict[str, Any] = {"image_size": 256, "augment": "light", "max_epochs": 10}
DEFAULT = "default"
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "gate per window": {"gate_scope": "window"},
    "padding at window borders": {"window_padding": "window"},
    "GELU": {"nonlinearity": "gelu"},
    "dense routing": {"routing": "dense"},
    "compat routing": {"routing": "compat"},
    "two experts kept": {"top_k": 2},
    "scales 1, 2, 4": {"scales": (1, 2, 4), "num_experts": 3},
    "scale 1 alone, eight experts": {"scales": (1,) * 8},
}


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


def execute(run: Run) -> dict[str, Any]:
    """Train, in this process."""
    from semseg_automl import SemanticSegmentor

    data, metric = Path(os.environ["SEMSEG_AUTOML_DATA"]) / run.set, METRICS[run.set]
    changes = {**COMMON, **OPTIONS[run.option]}
    with tempfile.TemporaryDirectory() as folder:
        seg = SemanticSegmentor(
            backbone="mobile_sam", path=Path(folder) / "model", random_state=run.seed, eval_metric=metric
        )
        seg.fit(
            data / "train.csv",
            tuning_data=data / "val.csv",
            hyperparameters=changes,
            hyperparameter_tune_kwargs=None,
        )
        summary = seg.fit_summary(show=False)
        row = seg.leaderboard().set_index("model").loc[summary["best_model"]]
    return {
        **asdict(run),
        "metric": metric,
        "hyperparameters": changes,
        "validation_score": float(summary["score_val"]),
        "steps": summary["steps"],
        "n_trainable": int(row["n_trainable"]),
        "seconds_per_step": float(row["seconds_per_step"]),
        "precision": summary["precision"],
        **circumstances(),
    }


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
        "validation score. The default's own score; of an option its mean difference from the default over",
        "the seeds that both have, with the standard error (number of seeds).",
        "",
        f"| option | {' | '.join(f'{name} ({METRICS[name]})' for name in sets)} |",
        "|---" * (len(sets) + 1) + "|",
    ]
    for option in OPTIONS:
        cells = []
        for name in sets:
            mine = {seed: s for (set_, o, seed), s in scores.items() if (set_, o) == (name, option)}
            if option != DEFAULT:
                mine = {
                    seed: s - scores[name, DEFAULT, seed]
                    for seed, s in mine.items()
                    if (name, DEFAULT, seed) in scores
                }
            cells.append(_told(list(mine.values()), signed=option != DEFAULT))
        lines.append(f"| {option} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _told(values: list[float], *, signed: bool) -> str:
    """Mean, standard error and number."""
    if not values:
        return "-"
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{'+' if signed else ''}.3f}{error} ({len(values)})"


def main() -> int:
    """Run what is missing, seed by seed; write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=METRICS, default=["leaf_disease"])
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run = Run(**json.loads(arguments.one))
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.path.write_text(json.dumps(execute(run), indent=2) + "\n", encoding="utf-8")
        return 0
    missing = [
        run
        for name in arguments.sets
        for seed in range(arguments.seeds)
        for option in OPTIONS
        if not (run := Run(set=name, option=option, seed=seed)).path.exists()
    ]
    failed = False
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
