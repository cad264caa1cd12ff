"""Every adapter on three real data sets under the same wall clock, as JSON a run and one table.

    python -m benchmarks.quality.adapters                 everything without a result, one run at a time
    python -m benchmarks.quality.adapters --minutes 90    as much of it as 90 minutes hold
    python -m benchmarks.quality.adapters --table         write adapters.md from the results that are there

Start it in the project's root, alone on the machine; it can be stopped and started again at any time. Data
sets are found in $SEMSEG_AUTOML_DATA, weights in $SEMSEG_AUTOML_WEIGHTS.

For each set and method: the learning rate is the best of three on the validation table (one run each, a seed
of its own), then the test table is scored with that rate and the seeds 0, 1, ... A run is
``fit(train, tuning_data=val, time_limit=120)`` in a process of its own, with the same picture size,
augmentation and head for all methods. Whole sets come one after the other, so that a part of the table is a
fair one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.quality.run import circumstances

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "adapters", HERE / "adapters.md"
SECONDS, SEEDS, TUNING_SEED = 120.0, 2, 1000
BACKBONE = "mobile_sam"
COMMON: dict[str, Any] = {"image_size": 384, "augment": "light"}

SETS: dict[str, str] = {"polyp_clinicdb": "iou", "leaf_disease": "iou", "camvid": "mean_iou"}
"""Data set -> metric: one medical, one agricultural, one with many classes."""

RATES = (3e-4, 1e-3, 3e-3)
VECTORS = (1e-3, 3e-3, 1e-2)
WEIGHTS = (1e-5, 1e-4, 1e-3)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Hyperparameters of one row, the rates to choose from, and what they are rates of."""

    hyperparameters: dict[str, Any]
    rates: tuple[float, ...] = RATES
    rate: str = "learning_rate"


def _adapter(adapter: str, **more: Any) -> dict[str, Any]:
    return {"adapter": adapter, **more}


METHODS: dict[str, Method] = {
    "decoder_only": Method(hyperparameters=_adapter("decoder_only"), rate="decoder_learning_rate"),
    "conv_lora, learned": Method(hyperparameters=_adapter("conv_lora")),
    "conv_lora, dense": Method(hyperparameters=_adapter("conv_lora", routing="dense")),
    "conv_lora, compat": Method(hyperparameters=_adapter("conv_lora", routing="compat")),
    "conv_lora, learned, GELU": Method(hyperparameters=_adapter("conv_lora", nonlinearity="gelu")),
    "conv_lora, dense, GELU": Method(
        hyperparameters=_adapter("conv_lora", routing="dense", nonlinearity="gelu")
    ),
    "multi_scale_lora": Method(hyperparameters=_adapter("multi_scale_lora")),
    "multi_scale_lora, GELU": Method(hyperparameters=_adapter("multi_scale_lora", nonlinearity="gelu")),
    "lora": Method(hyperparameters=_adapter("lora")),
    "lora, all linear layers": Method(
        hyperparameters=_adapter("lora", targets=("q", "k", "v", "proj", "mlp"))
    ),
    "bitfit": Method(hyperparameters=_adapter("bitfit"), rates=VECTORS),
    "ssf": Method(hyperparameters=_adapter("ssf"), rates=VECTORS),
    "adapter": Method(hyperparameters=_adapter("adapter", rank=16)),
    "parallel_adapter": Method(hyperparameters=_adapter("parallel_adapter", rank=16)),
    "mona": Method(hyperparameters=_adapter("mona", rank=16)),
    "vpt, deep": Method(hyperparameters=_adapter("vpt", rank=16), rates=VECTORS),
    "vpt, shallow": Method(hyperparameters=_adapter("vpt", rank=16, prompt_depth="shallow"), rates=VECTORS),
    "sam_adapter": Method(hyperparameters=_adapter("sam_adapter", rank=16)),
    "lst, random side network": Method(hyperparameters=_adapter("lst"), rates=(1e-4, 3e-4, 1e-3)),
    "full": Method(hyperparameters=_adapter("full"), rates=WEIGHTS),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: what, where, with which rate and seed; ``tuning`` runs never see the test table."""

    set: str
    method: str
    rate: float
    seed: int
    seconds: float

    @property
    def tuning(self) -> bool:
        """Whether it is one of those that choose the rate."""
        return self.seed == TUNING_SEED

    def path(self, results: Path) -> Path:
        """Where its result lies."""
        plain = "".join(c if c.isalnum() else "_" for c in self.method).strip("_")
        return results / self.set / f"{plain}-{self.rate:g}-{'tune' if self.tuning else self.seed}.json"


def load(run: Run, results: Path) -> dict[str, Any] | None:
    """The result of a run, or None."""
    path = run.path(results)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def chosen_rate(set_: str, method: str, seconds: float, results: Path) -> float | None:
    """The rate with the best validation score (the first of equals); None until all are run."""
    scores = {}
    for rate in METHODS[method].rates:
        run = Run(set=set_, method=method, rate=rate, seed=TUNING_SEED, seconds=seconds)
        result = load(run, results)
        if result is None:
            return None
        scores[rate] = result.get("validation_score", -math.inf)
    return max(scores, key=lambda rate: scores[rate])


def pending(
    sets: Sequence[str], methods: Sequence[str], seeds: int, seconds: float, results: Path
) -> Iterator[Run]:
    """Runs without a result, in order; later ones depend on the results of earlier ones."""
    for set_ in sets:
        for method in methods:
            for rate in METHODS[method].rates:
                run = Run(set=set_, method=method, rate=rate, seed=TUNING_SEED, seconds=seconds)
                if load(run, results) is None:
                    yield run
        for seed in range(seeds):
            for method in methods:
                chosen = chosen_rate(set_, method, seconds, results)
                if chosen is None:
                    continue
                run = Run(set=set_, method=method, rate=chosen, seed=seed, seconds=seconds)
                if load(run, results) is None:
                    yield run


def execute(run: Run, backbone: str = BACKBONE) -> dict[str, Any]:
    """Train, and score the test table unless the run is for tuning; in this process."""
    from semseg_automl import SemanticSegmentor

    data, metric, method = (
        Path(os.environ["SEMSEG_AUTOML_DATA"]) / run.set,
        SETS[run.set],
        METHODS[run.method],
    )
    changes = {**COMMON, **method.hyperparameters, method.rate: run.rate}
    with tempfile.TemporaryDirectory() as folder:
        seg = SemanticSegmentor(
            backbone=backbone, path=Path(folder) / "model", random_state=run.seed, eval_metric=metric
        )
        started = time.perf_counter()
        seg.fit(
            data / "train.csv",
            tuning_data=data / "val.csv",
            time_limit=run.seconds,
            hyperparameters=changes,
            hyperparameter_tune_kwargs=None,
        )
        fitted = time.perf_counter() - started
        test = None if run.tuning else float(seg.evaluate(data / "test.csv", [metric])[metric])
        summary = seg.fit_summary(show=False)
        row = seg.leaderboard().set_index("model").loc[summary["best_model"]]
    return {
        **asdict(run),
        "metric": metric,
        "backbone": backbone,
        "hyperparameters": changes,
        "validation_score": float(summary["score_val"]),
        "test_score": test,
        "n_trainable": int(row["n_trainable"]),
        "seconds_per_step": float(row["seconds_per_step"]),
        "peak_memory_mb": float(row["peak_memory_mb"]),
        "steps": summary["steps"],
        "precision": summary["precision"],
        "fit_seconds": round(fitted, 1),
        **circumstances(),
    }


def keep(result: dict[str, Any], path: Path) -> None:
    """Write a result at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def execute_apart(run: Run, results: Path, backbone: str = BACKBONE) -> bool:
    """Execute a run in a process of its own; what failed is kept as a result with its last words."""
    order = json.dumps({**asdict(run), "backbone": backbone, "results": str(results)})
    command = [sys.executable, "-m", "benchmarks.quality.adapters", "--one", order]
    ended = run_apart(command)
    if ended is None:  # stopped from outside: to be run again
        return False
    code, words = ended
    if code:
        keep({**asdict(run), "error": words}, run.path(results))
    return True


def page(results: Path, seconds: float) -> str:
    """The table as Markdown, from the results alone."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(results.glob("*/*.json"))]
    found = [r for r in found if r["seconds"] == seconds]
    kept = [r for r in found if r.get("test_score") is not None]
    lines = [
        "# Adapters",
        "Written by `python -m benchmarks.quality.adapters --table` from the results beside it; don't edit.",
        "",
        f"`{BACKBONE}`, {seconds:g} seconds a run, pictures of {COMMON['image_size']} pixels, rate chosen on",
        "the validation table. Score: test table, mean ± standard error (number of seeds). A dash: not run.",
        "Seconds a step and memory: median and maximum over the runs of all sets.",
    ]
    machines = sorted({f"{r['hardware']['processor']}, {r['hardware']['capability']}" for r in kept})
    lines += [f"Machine: {'; '.join(machines)}.", ""] if machines else [""]
    heads = [f"{name} ({metric})" for name, metric in SETS.items()]
    lines += [
        f"| method | {' | '.join(heads)} | trainable | s a step | peak MiB |",
        "|---" * (len(heads) + 4) + "|",
    ]
    for method in METHODS:
        mine = [r for r in kept if r["method"] == method]
        cells = [_score([r for r in mine if r["set"] == name]) for name in SETS]
        broken = [r for r in found if r["method"] == method and "error" in r]
        cost = ["-", "-", "-"]
        if mine:
            steps = statistics.median(r["seconds_per_step"] for r in mine)
            memory = max(r["peak_memory_mb"] for r in mine)
            cost = [f"{max(r['n_trainable'] for r in mine):,}", f"{steps:.2f}", f"{memory:,.0f}"]
        note = f" ({len(broken)} runs failed)" if broken else ""
        lines.append(f"| {method}{note} | {' | '.join(cells + cost)} |")
    return "\n".join(lines) + "\n"


def _score(runs: Sequence[dict[str, Any]]) -> str:
    """Mean, standard error and number of test scores, and the rate."""
    if not runs:
        return "-"
    scores = [r["test_score"] for r in runs]
    error = f" ± {statistics.stdev(scores) / math.sqrt(len(scores)):.3f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.3f}{error} ({len(scores)}), rate {runs[0]['rate']:g}"


def main() -> int:
    """Parse, run what is missing, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of a run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after so many")
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        order = json.loads(arguments.one)
        backbone, results = order.pop("backbone"), Path(order.pop("results"))
        run = Run(**order)
        keep(execute(run, backbone), run.path(results))
        return 0
    end, stopped = time.monotonic() + 60 * arguments.minutes, False
    while not arguments.table and not stopped and time.monotonic() < end:
        what = (arguments.sets, arguments.methods, arguments.seeds, arguments.seconds, arguments.results)
        run = next(pending(*what), None)
        if run is None:
            break
        print(f"{run.set}, {run.method}, rate {run.rate:g}, seed {run.seed}", flush=True)
        stopped = not execute_apart(run, arguments.results, arguments.backbone)
    text = page(arguments.results, arguments.seconds)
    target = PAGE if arguments.results == RESULTS else arguments.results / "adapters.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(text)
    return int(stopped)


if __name__ == "__main__":
    sys.exit(main())
