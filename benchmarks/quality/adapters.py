"""Every adapter on three real data sets at the same price, as JSON a run and one table.

    python -m benchmarks.quality.adapters                 everything without a result, one run at a time
    python -m benchmarks.quality.adapters --minutes 90    as much of it as 90 minutes hold
    python -m benchmarks.quality.adapters --table         write adapters.md from the results that are there

    python -m benchmarks.quality.adapters --cost          how many steps of each method two minutes hold here
    python -m benchmarks.quality.adapters --by-steps --processes 14    the same table in so many steps a run

Start it in the project's root; it can be stopped and started again at any time. Data sets are found in
$SEMSEG_AUTOML_DATA, weights in $SEMSEG_AUTOML_WEIGHTS.

For each set and method: the learning rate is the best of three on the validation table (one run each, a seed
of its own), then the test table is scored with that rate and the seeds 0, 1, ... A run is
``fit(train, tuning_data=val, time_limit=120)``, with the same picture size, augmentation and head for all
methods, alone on the machine. That takes 9 hours on two cores. ``--by-steps`` is for a machine with a GPU:
there each run makes as many steps as the 120 seconds hold on the machine where ``--cost`` was run, so that
cheaper methods make more of them, several runs side by side. Whole sets come one after the other, so that a
part of the table is a fair one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.quality.trainings import Order, Training, execute, keep, side_by_side, told

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "adapters", HERE / "adapters.md"
BY_STEPS, BY_STEPS_PAGE = HERE / "results" / "adapters_by_steps", HERE / "adapters_by_steps.md"
COST = HERE / "results" / "adapters_cost.json"
SECONDS, SEEDS, TUNING_SEED = 120.0, 2, 1000
COST_SECONDS, COST_SET = 32.0, "polyp_clinicdb"
IN_STEPS = 0.85
"""Share of two minutes that is taken for training steps, the same for all methods. Fits of 120 s spent 0.81
to 0.92 of them in steps and validations together (search/results/overrun.json)."""
BACKBONE = "mobile_sam"
COMMON: dict[str, Any] = {"image_size": 384, "augment": "light", "small_share": 0.0}

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
    "conv_lora, learned": Method(hyperparameters=_adapter("conv_lora", routing="learned")),
    "conv_lora, dense": Method(hyperparameters=_adapter("conv_lora", routing="dense")),
    "conv_lora, compat": Method(hyperparameters=_adapter("conv_lora", routing="compat")),
    "conv_lora, learned, GELU": Method(
        hyperparameters=_adapter("conv_lora", routing="learned", nonlinearity="gelu")
    ),
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
    """One training: what, where, with which rate and seed; ``tuning`` runs never see the test table.

    ``seconds`` is the time limit; with ``steps`` it says only which time limit they stand for.
    """

    set: str
    method: str
    rate: float
    seed: int
    seconds: float
    steps: int | None = None

    @property
    def tuning(self) -> bool:
        """Whether it is one of those that choose the rate."""
        return self.seed == TUNING_SEED

    def path(self, results: Path) -> Path:
        """Where its result lies."""
        plain = "".join(c if c.isalnum() else "_" for c in self.method).strip("_")
        return results / self.set / f"{plain}-{self.rate:g}-{'tune' if self.tuning else self.seed}.json"

    def training(self, backbone: str) -> Training:
        """What is to be trained."""
        method = METHODS[self.method]
        return Training(
            set=self.set,
            metric=SETS[self.set],
            hyperparameters={**COMMON, **method.hyperparameters, method.rate: self.rate},
            seed=self.seed,
            seconds=self.seconds if self.steps is None else None,
            steps=self.steps,
            test=not self.tuning,
            backbone=backbone,
        )

    @property
    def about(self) -> dict[str, Any]:
        """What is kept of it beside the result."""
        return {k: v for k, v in asdict(self).items() if k != "steps"} | {"by_steps": self.steps is not None}


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


def steps_of(cost: dict[str, Any]) -> dict[str, int]:
    """Method -> the steps that two minutes hold."""
    return {name: int(IN_STEPS * SECONDS / row["seconds_per_step"]) for name, row in cost["methods"].items()}


def pending(
    sets: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    seconds: float,
    results: Path,
    steps: dict[str, int] | None = None,
) -> Iterator[Run]:
    """Runs without a result, in order; later ones depend on the results of earlier ones.

    ``steps``: for each method the number of steps that take the clock's place.
    """
    given = steps or {}
    for set_ in sets:
        for method in methods:
            for rate in METHODS[method].rates:
                run = Run(
                    set=set_,
                    method=method,
                    rate=rate,
                    seed=TUNING_SEED,
                    seconds=seconds,
                    steps=given.get(method),
                )
                if load(run, results) is None:
                    yield run
        for seed in range(seeds):
            for method in methods:
                chosen = chosen_rate(set_, method, seconds, results)
                if chosen is None:
                    continue
                run = Run(
                    set=set_, method=method, rate=chosen, seed=seed, seconds=seconds, steps=given.get(method)
                )
                if load(run, results) is None:
                    yield run


def execute_apart(run: Run, results: Path, backbone: str = BACKBONE) -> bool:
    """Execute a run in a process of its own; what failed is kept as a result with its last words."""
    order = json.dumps({**asdict(run), "backbone": backbone, "results": str(results)})
    command = [sys.executable, "-m", "benchmarks.quality.adapters", "--one", order]
    ended = run_apart(command)
    if ended is None:  # stopped from outside: to be run again
        return False
    code, words = ended
    if code:
        keep({**run.about, "error": words}, run.path(results))
    return True


def measure_cost(methods: Sequence[str]) -> None:
    """Seconds a step and memory of each method, from a short run each, unless they are there already."""
    found = json.loads(COST.read_text(encoding="utf-8")) if COST.exists() else {"methods": {}}
    folder = COST.with_suffix("")
    for method in methods:
        if method in found["methods"]:
            continue
        rate = METHODS[method].rates[1]
        run = Run(set=COST_SET, method=method, rate=rate, seed=TUNING_SEED, seconds=COST_SECONDS)
        execute_apart(run, folder)
        result = load(run, folder) or {"error": "stopped"}
        run.path(folder).unlink(missing_ok=True)
        if "error" in result:
            print(f"{method}: {result['error']}", flush=True)
            continue
        names = ("seconds_per_step", "peak_memory_mb", "n_trainable", "steps", "precision", "in_steps")
        found["methods"][method] = {name: result[name] for name in names}
        found |= {name: result[name] for name in ("hardware", "versions", "commit", "date")}
        keep(found, COST)
        print(f"{method}: {found['methods'][method]}", flush=True)


def page(results: Path, seconds: float) -> str:
    """The table as Markdown, from the results alone."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(results.glob("*/*.json"))]
    found = [r for r in found if r["seconds"] == seconds]
    kept = [r for r in found if r.get("test_score") is not None]
    cost = json.loads(COST.read_text(encoding="utf-8")) if COST.exists() else {"methods": {}}
    heads = [f"{name} ({metric})" for name, metric in SETS.items()]
    lines = [
        "# Adapters",
        "Written by `python -m benchmarks.quality.adapters --table` from the results beside it; don't edit.",
        "",
        f"`{BACKBONE}`, pictures of {COMMON['image_size']} pixels, rate chosen on the validation table.",
        "Score: test table, mean ± standard error (number of seeds). A dash: not run.",
        *_conditions(kept, seconds, cost),
        "",
        f"| method | {' | '.join(heads)} | trainable | s a step | peak MB | steps |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for method in METHODS:
        mine = [r for r in kept if r["method"] == method]
        cells = [_score([r for r in mine if r["set"] == name]) for name in SETS]
        broken = [r for r in found if r["method"] == method and "error" in r]
        note = f" ({len(broken)} runs failed)" if broken else ""
        lines.append(f"| {method}{note} | {' | '.join(cells + _cost(mine, cost['methods'].get(method)))} |")
    return "\n".join(lines) + "\n"


def _conditions(kept: Sequence[dict[str, Any]], seconds: float, cost: dict[str, Any]) -> list[str]:
    """How the runs ended and where they ran."""
    machines = sorted({_machine(r["hardware"]) for r in kept})
    if any(r.get("by_steps") for r in kept):
        return [
            f"Each run has as many steps as {seconds:g} seconds hold where the cost was measured",
            f"({_machine(cost['hardware'])}, two threads, {COST_SET}): {IN_STEPS:.0%} of the time in steps.",
            f"Trained on: {'; '.join(machines)}.",
        ]
    lines = [f"{seconds:g} seconds a run. Seconds a step and memory: median and maximum over all sets."]
    return lines + ([f"Machine: {'; '.join(machines)}."] if machines else [])


def _machine(hardware: dict[str, Any]) -> str:
    return hardware.get("gpu") or f"{hardware['processor']}, {hardware['capability']}"


def _cost(runs: Sequence[dict[str, Any]], measured: dict[str, Any] | None) -> list[str]:
    """Trainable parameters, seconds a step, peak memory, steps: those measured alone, or the runs' own."""
    if not runs:
        return ["-"] * 4
    own = any(not r.get("by_steps") for r in runs)
    steps = statistics.median(r["steps"] for r in runs)
    trained = min(r["n_trainable"] for r in runs)  # with the head of two classes, where there is such a set
    if own or measured is None:
        seconds = statistics.median(r["seconds_per_step"] for r in runs)
        memory = max(r["peak_memory_mb"] for r in runs)
    else:
        seconds, memory = measured["seconds_per_step"], measured["peak_memory_mb"]
        trained = measured["n_trainable"]
    return [f"{trained:,}", f"{seconds:.2f}", f"{memory:,.0f}", f"{steps:.0f}"]


def _score(runs: Sequence[dict[str, Any]]) -> str:
    """Mean, standard error and number of test scores, and the rate."""
    if not runs:
        return "-"
    return f"{told([r['test_score'] for r in runs])}, rate {runs[0]['rate']:g}"


def run_in_turn(arguments: argparse.Namespace, what: tuple[Any, ...]) -> bool:
    """What is missing, one run at a time; whether it was stopped."""
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end:
        run = next(pending(*what), None)
        if run is None:
            return False
        print(f"{run.set}, {run.method}, rate {run.rate:g}, seed {run.seed}", flush=True)
        if not execute_apart(run, arguments.results, arguments.backbone):
            return True
    return False


def run_many(arguments: argparse.Namespace, what: tuple[Any, ...]) -> None:
    """What is missing, several runs at once: first those that choose rates, then the seeds."""
    until = time.time() + 60 * arguments.minutes
    while runs := list(pending(*what)):
        orders = [
            Order(
                training=run.training(arguments.backbone), path=run.path(arguments.results), about=run.about
            )
            for run in runs
        ]
        if side_by_side(orders, arguments.processes, until):
            return


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of a run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after so many")
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--by-steps", action="store_true")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, with --by-steps")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.processes > 1 and not arguments.by_steps:
        parser.error("--processes: runs that the clock ends are timed, one at a time; add --by-steps")
    return arguments


def main() -> int:
    """Parse, run what is missing, write the table."""
    arguments = parsed()
    if arguments.one:
        order = json.loads(arguments.one)
        backbone, results = order.pop("backbone"), Path(order.pop("results"))
        run = Run(**order)
        keep({**run.about, **execute(run.training(backbone))}, run.path(results))
        return 0
    if arguments.cost:
        measure_cost(arguments.methods)
        return 0
    target = BY_STEPS_PAGE if arguments.by_steps else PAGE
    if arguments.results is not None:
        target = arguments.results / "adapters.md"
    else:
        arguments.results = BY_STEPS if arguments.by_steps else RESULTS
    steps = steps_of(json.loads(COST.read_text(encoding="utf-8"))) if arguments.by_steps else None
    what = (arguments.sets, arguments.methods, arguments.seeds, arguments.seconds, arguments.results, steps)
    stopped = False
    if not arguments.table and arguments.by_steps:
        run_many(arguments, what)
    elif not arguments.table:
        stopped = run_in_turn(arguments, what)
    text = page(arguments.results, arguments.seconds)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(text)
    return int(stopped)


if __name__ == "__main__":
    sys.exit(main())
