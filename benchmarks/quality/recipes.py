"""How to train, one change at a time, on videos that training has not seen: what the planner's rules rest on.

    python -m benchmarks.quality.recipes --processes 14    what has no result yet
    python -m benchmarks.quality.recipes --table           write recipes.md from the results that are there

polyp_clinicdb's frames come from videos: training and validation table hold 24 of them, in order. They are
cut into folds of whole videos. In turn one fold is tested on, the next one validated on (it chooses the state
to keep and the threshold), and the rest trained on, as a user would. The test table is not touched. A run has
as many steps as ten minutes hold on two cores, so it may run anywhere, several at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.trainings import Training, told, train_missing

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "recipes", HERE / "recipes.md"
SET, METRIC = "polyp_clinicdb", "iou"
VIDEOS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228),
    *(253, 278, 298, 318, 343, 364, 384, 409, 429, 448, 467, 479),
)
"""First frame of each video of CVC-ClinicDB (Bernal et al., 2015). Checked on the pictures: at each the mean
difference from the frame before is 1.6 to 4 times the median of such differences."""
FRAMES = 503
FOLDS = 6
DEFAULT = "default"
CROP = (384, 480)
COMMON: dict[str, Any] = {
    "image_size": 480,
    "crop_size": CROP,
    "augment": "light",
    "small_share": 0.79,
    "routing": "learned",
}
"""What the planner chooses at ten minutes on two cores, where 0.6 of the time are 0.79 of the steps; with the
gate that was the library's default when they were run."""
STEPS = 846
THIRD: dict[str, Any] = {"learning_rate": 3e-4, "decoder_learning_rate": 1.7e-4}
RECIPES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "augment medium": {"augment": "medium"},
    "augment medical": {"augment": "medical"},
    "a third of the learning rates": THIRD,
    "a third of the rates, augment medical": {**THIRD, "augment": "medical"},
    "augment strong": {"augment": "strong"},
    "adapters in all linear layers": {"targets": ("q", "k", "v", "proj", "mlp")},
    "smaller pictures, more steps": {"image_size": 384, "crop_size": (288, 384)},
    "larger pictures, fewer steps": {"image_size": 640, "crop_size": (480, 640)},
    "binary cross-entropy and Dice": {"loss": "bce_dice"},
    "the decoder alone": {"adapter": "decoder_only"},
    "dense routing": {"routing": "dense"},
    "LoRA in place of Conv-LoRA": {"adapter": "lora"},
    "weight decay 0.05": {"weight_decay": 0.05},
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    recipe: str
    fold: int
    seed: int = 0

    @property
    def path(self) -> Path:
        """Where its result lies."""
        plain = "_".join("".join(c if c.isalnum() else " " for c in self.recipe).split())
        return RESULTS / SET / f"{plain}-{self.fold}-{self.seed}.json"

    def training(self) -> Training:
        """What is to be trained; larger pictures get fewer steps, for the same time."""
        changes = {**COMMON, **RECIPES[self.recipe]}
        folds = frames_of_folds()
        tested, judged = folds[self.fold], folds[(self.fold + 1) % FOLDS]
        rest = tuple(row for fold in folds if fold not in (tested, judged) for row in fold)
        return Training(
            set=SET,
            metric=METRIC,
            hyperparameters=changes,
            seed=self.seed,
            steps=round(STEPS * math.prod(CROP) / math.prod(changes["crop_size"])),
            test=True,
            rows=(rest, judged, tested),
        )


def frames_of_folds() -> list[tuple[int, ...]]:
    """Row numbers (from 0) of each fold: videos that follow each other, for they may be of one patient."""
    each = len(VIDEOS) // FOLDS
    starts = [VIDEOS[fold * each] - 1 for fold in range(FOLDS)] + [FRAMES]
    return [tuple(range(first, last)) for first, last in itertools.pairwise(starts)]


def page() -> str:
    """The table as Markdown, from the results alone."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*/*.json"))]
    kept = {(r["recipe"], r["fold"], r["seed"]): r for r in found if r.get("test_score") is not None}
    lines = [
        "# Recipes",
        "Written by `python -m benchmarks.quality.recipes --table` from the results beside it; don't edit.",
        "",
        f"`mobile_sam` on {SET}'s training and validation videos, {FOLDS} folds of whole videos; {METRIC} on",
        "videos that neither trained nor chose anything: the default's own (of when it was run: with the",
        "learned gate), of a recipe its mean difference from the default over the folds that both have, with",
        "the standard error (number of runs). Scales:",
        'predicted with ``tta="flips_and_scales"``, else as it comes (the picture and the mirrored one).',
        "",
        f"| recipe | {METRIC} | with scales | validation |",
        "|---|---|---|---|",
    ]
    for recipe in RECIPES:
        cells = [_cell(kept, recipe, of) for of in ("test_score", "test_score_scales", "validation_score")]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(kept: dict[tuple[str, int, int], dict[str, Any]], recipe: str, of: str) -> str:
    """Mean, standard error and number of runs."""
    values = []
    for (name, fold, seed), result in kept.items():
        base = kept.get((DEFAULT, fold, seed))
        if name == recipe and base is not None:
            values.append(result[of] - (base[of] if recipe != DEFAULT else 0.0))
    return told(values, signed=recipe != DEFAULT)


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after so many")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    runs = [
        Run(recipe=recipe, fold=fold, seed=seed)
        for seed in range(arguments.seeds)
        for recipe in arguments.recipes
        for fold in arguments.folds
    ]
    if not arguments.table:
        train_missing(runs, arguments.processes, arguments.minutes)
    PAGE.write_text(page(), encoding="utf-8")
    print(page())


if __name__ == "__main__":
    main()
