"""The plan for thin structures against the plan for thick ones, on cracks and roads: same time, same seeds.

    python -m benchmarks.quality.thin             what has no result yet, one after the other
    python -m benchmarks.quality.thin --table     write thin.md from the results that are there

Plain is what the planner would choose if nothing were thin: whole pictures, enlarged less, smaller ones
first. A third arm trains the thin plan with a loss for thin things (clDice). All else (adapter, rates, clock)
is the same. Run it alone on the machine: the clock ends trainings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.run import circumstances
from benchmarks.quality.trainings import Training, keep, tables, told

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "thin", HERE / "thin.md"
SETS = ("crack_forest", "roads_massachusetts")
_GATE = {"routing": "learned"}
PLANS: dict[str, dict[str, Any]] = {"thin": _GATE, "plain": _GATE, "cl_dice": {**_GATE, "loss": "cl_dice"}}
"""Each with the hyperparameters that it is given; the gate is the default of when the first were run."""
PAIRS = (("thin", "plain"), ("cl_dice", "thin"))
SEEDS = 2
SECONDS = 300.0
METRIC = "iou"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    set: str
    plan: str
    seed: int

    @property
    def path(self) -> Path:
        """Where its result lies."""
        return RESULTS / f"{self.set}-{self.plan}-{self.seed}.json"


def execute(run: Run, seconds: float) -> dict[str, Any]:
    """Train with one of the two plans, score the test table; in a process of its own."""
    import torch

    from semseg_automl import SemanticSegmentor
    from semseg_automl.search import planner

    torch.set_num_threads(2)
    if run.plan == "plain":
        planner.THIN = 0.0  # no class is thinner than this
    training = Training(
        set=run.set, metric=METRIC, hyperparameters=PLANS[run.plan], seed=run.seed, seconds=seconds
    )
    train, val, test = tables(training)
    with tempfile.TemporaryDirectory() as folder:
        seg = SemanticSegmentor(
            backbone=training.backbone,
            path=Path(folder) / "model",
            random_state=run.seed,
            eval_metric=METRIC,
            verbosity=1,
        )
        seg.fit(
            train,
            tuning_data=val,
            time_limit=seconds,
            hyperparameters=training.hyperparameters,
            hyperparameter_tune_kwargs=None,
        )
        summary = seg.fit_summary(show=False)
        score = float(seg.evaluate(test, [METRIC])[METRIC])
    return {
        **asdict(run),
        "seconds": seconds,
        "metric": METRIC,
        "test_score": score,
        "validation_score": float(summary["score_val"]),
        "fit_seconds": round(summary["seconds"]["total"], 1),
        "steps": summary["steps"],
        "precision": summary["precision"],
        "said": summary["plan"],
        **circumstances(),
    }


def results() -> dict[tuple[str, str, int], dict[str, Any]]:
    """What there is, by set, plan and seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return {(r["set"], r["plan"], r["seed"]): r for r in found}


def differences(
    found: dict[tuple[str, str, int], dict[str, Any]], name: str, one: str, other: str, of: str = "test_score"
) -> list[float]:
    """One plan minus the other, a number a seed that both have."""
    score = {(plan, seed): r[of] for (s, plan, seed), r in found.items() if s == name}
    seeds = [seed for plan, seed in score if plan == one and (other, seed) in score]
    return [score[one, seed] - score[other, seed] for seed in seeds]


def page() -> str:
    """The table as Markdown, from the results alone."""
    found = results()
    seconds = ", ".join(sorted({f"{r['seconds']:.0f}" for r in found.values()}))
    lines = [
        "# The plan for thin structures",
        "Written by `python -m benchmarks.quality.thin --table` from the results beside it; don't edit.",
        "",
        f"`mobile_sam`, {seconds} s a fit, {METRIC} on the whole test table: mean and standard error (number",
        "of seeds). The difference is of pairs of the same seed.",
        "",
        "| set | plan | test | validation | sizes |",
        "|---|---|---|---|---|",
    ]
    for name in SETS:
        for plan in PLANS:
            runs = [r for (s, p, _), r in found.items() if (s, p) == (name, plan)]
            cells = [told([r[of] for r in runs]) for of in ("test_score", "validation_score")]
            sizes = runs[0]["said"][0].split(":")[0] if runs else "-"
            lines.append(f"| {name} | {plan} | {' | '.join(cells)} | {sizes} |")
        for one, other in PAIRS:
            cells = [
                told(differences(found, name, one, other, of), signed=True)
                for of in ("test_score", "validation_score")
            ]
            lines.append(f"| {name} | {one} minus {other} | {' | '.join(cells)} | |")
    return "\n".join(lines) + "\n"


def met() -> bool:
    """Whether the thin plan is ahead on every set, in the mean over its seeds."""
    found = results()
    pairs = [differences(found, name, *PAIRS[0]) for name in SETS]
    return all(len(values) >= SEEDS and statistics.fmean(values) > 0 for values in pairs)


def main() -> int:
    """Run what is missing, write the table; 1 while the bar is not met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, plan, seed = arguments.one
        run = Run(set=name, plan=plan, seed=int(seed))
        keep(execute(run, arguments.seconds), run.path)
        return 0
    for seed, name, plan in itertools.product(range(SEEDS), SETS, PLANS):
        run = Run(set=name, plan=plan, seed=seed)
        if arguments.table or run.path.exists():
            continue
        words = [sys.executable, "-m", "benchmarks.quality.thin", "--seconds", str(arguments.seconds)]
        subprocess.run([*words, "--one", name, plan, str(seed)], check=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(page())
    return int(not met())


if __name__ == "__main__":
    sys.exit(main())
