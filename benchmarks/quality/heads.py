"""The two heads on a set with ignored pixels and no background class, as JSON a run and one table.

    python -m benchmarks.quality.heads                  what has no result yet, two runs at once
    python -m benchmarks.quality.heads --table          write heads.md from the results that are there

Start it in the project's root. camvid: eleven classes that share all pixels but the ignored ones. Runs with
``head="mask_classification"`` are twins of those of "conv_lora, dense" in ``adapters.py --by-steps`` (the
same steps, seeds, sizes and rates, chosen for the semantic head), which stand for ``head="semantic"``.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality import adapters
from benchmarks.quality.trainings import Training, told, train_missing

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "heads", HERE / "heads.md"
SET, METRIC = "camvid", "mean_iou"
SEMANTIC = "conv_lora, dense"
VARIANTS: dict[str, dict[str, Any]] = {
    "16 queries, matched": {"num_queries": 16},
    "32 queries, matched": {"num_queries": 32},
    "16 queries, ce_dice": {"num_queries": 16, "loss": "ce_dice"},
}
"""Of ``head="mask_classification"``: with its matching loss, or with a loss of the semantic logits."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training with queries."""

    variant: str
    seed: int

    @property
    def path(self) -> Path:
        """Where its result lies."""
        plain = "_".join(self.variant.replace(",", "").split())
        return RESULTS / SET / f"{plain}-{self.seed}.json"

    @property
    def twin(self) -> dict[str, Any]:
        """The result of the same training with the semantic head."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (adapters.BY_STEPS / SET).glob("*")]
        (twin,) = (r for r in found if (r["method"], r["seed"]) == (SEMANTIC, self.seed))
        return twin

    def training(self) -> Training:
        """What is to be trained."""
        head = {"head": "mask_classification", **VARIANTS[self.variant]}
        return Training(
            set=SET,
            metric=METRIC,
            hyperparameters={**self.twin["hyperparameters"], **head},
            seed=self.seed,
            steps=self.twin["steps"],
            test=True,
        )


def page() -> str:
    """The table as Markdown, from the results alone."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*/*.json"))]
    twins = [Run(variant="", seed=seed).twin for seed in sorted({r["seed"] for r in found})]
    rows = {"semantic": twins} | {
        f"mask_classification, {variant}": [r for r in found if r["variant"] == variant]
        for variant in VARIANTS
    }
    lines = [
        "# Heads",
        "Written by `python -m benchmarks.quality.heads --table` from the results beside it; don't edit.",
        "",
        f"`mobile_sam` on {SET} ({METRIC}): {SEMANTIC}, {twins[0]['steps'] if twins else '?'} steps,",
        f"pictures of {adapters.COMMON['image_size']} pixels. Mean and standard error (number of seeds).",
        "A dash: not run.",
        "",
        "| head | test | validation | trainable |",
        "|---|---|---|---|",
    ]
    for head, results in rows.items():
        scores = (told([r[of] for r in results]) for of in ("test_score", "validation_score"))
        trained = f"{results[0]['n_trainable']:,}" if results else "-"
        lines.append(f"| {head} | {' | '.join(scores)} | {trained} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after so many")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    runs = [Run(variant=v, seed=seed) for v in arguments.variants for seed in range(arguments.seeds)]
    if not arguments.table:
        train_missing(runs, arguments.processes, arguments.minutes)
    PAGE.write_text(page(), encoding="utf-8")
    print(page())


if __name__ == "__main__":
    main()
