"""The protocol of the Conv-LoRA paper, for whoever has its data sets and a GPU.

    python -m benchmarks.paper.run --list                      which sets are there, which are not
    python -m benchmarks.paper.run SET ... [--backbone NAME]   runs without a result yet, one at a time
    python -m benchmarks.paper.run --table                     mean and standard error of what was run

Start it in the project's root. Data sets are folders of $SEMSEG_AUTOML_DATA, unpacked as they are published
(``readers.py`` and ``sets.py`` say which and how, ``masks.py`` what their masks' values mean). Each run is
``presets="conv_lora_paper"`` with the set's own hyperparameters and one seed, in a process of its own; its
JSON is kept in ``results/`` and never run again. Pictures have a long side of 1024 pixels, as the encoder was
pretrained and as the paper trains (it squashes them to squares; here they keep their aspect). Epochs, and the
metric that a state is chosen by, are the set's. ``--image-size`` and ``--max-epochs`` are for smaller
machines: what was changed is part of the result's name and of its row.
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.paper.readers import READERS, LayoutError, Tables
from benchmarks.paper.sets import SETS, PaperSet
from benchmarks.quality.run import circumstances

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SEEDS = (0, 1, 2)
BACKBONE = "sam_vit_h"
SIZE, EPOCHS = 1024, 30


def as_in_the_paper(name: str) -> dict[str, int]:
    """Picture size and number of epochs of a set."""
    return {"image_size": SIZE, "max_epochs": SETS[name].hyperparameters.get("max_epochs", EPOCHS)}


def read(spec: PaperSet) -> Tables:
    """The tables of a set; LayoutError where it is not there or not as it is published."""
    data = os.environ.get("SEMSEG_AUTOML_DATA")
    if not data:
        raise LayoutError("$SEMSEG_AUTOML_DATA is not set")
    folder = Path(data).expanduser() / spec.folder
    if not folder.is_dir():
        raise LayoutError(f"there is no folder {folder}")
    return READERS[spec.reader](folder)


def run(name: str, seed: int, backbone: str, size_and_epochs: dict[str, int]) -> dict[str, Any]:
    """One training and its test scores, in this process."""
    from benchmarks.paper.masks import classes_of
    from semseg_automl import SemanticSegmentor

    spec = SETS[name]
    tables = read(spec)
    classes = classes_of(spec.classes, tables)
    changes = dict(spec.hyperparameters) | size_and_epochs
    with tempfile.TemporaryDirectory() as folder:
        seg = SemanticSegmentor(
            problem_type=spec.problem_type,
            classes=classes,
            backbone=backbone,
            path=Path(folder) / "model",
            random_state=seed,
            eval_metric=spec.eval_metric,
        )
        started = time.perf_counter()
        seg.fit(
            tables["train"],
            tuning_data=tables.get("val"),
            presets="conv_lora_paper",
            hyperparameters=changes,
            hyperparameter_tune_kwargs=None,
        )
        seconds = time.perf_counter() - started
        tests = {key: table for key, table in tables.items() if key not in ("train", "val")}
        scores = {key: seg.evaluate(table, list(spec.metrics)) for key, table in tests.items()}
        summary = seg.fit_summary(show=False)
    return {
        "set": name,
        "seed": seed,
        "backbone": backbone,
        "preset": "conv_lora_paper",
        "hyperparameters": changes,
        "note": spec.note,
        "pictures": {key: len(table) for key, table in tables.items()},
        "test": {key: {k: float(v) for k, v in values.items()} for key, values in scores.items()},
        "eval_metric": seg.eval_metric_,
        "validation_score": summary["score_val"],
        "fit_seconds": round(seconds, 1),
        "steps": summary["steps"],
        "precision": summary["precision"],
        **circumstances(),
    }


def result_path(name: str, seed: int, backbone: str, size_and_epochs: dict[str, int]) -> Path:
    """Where a run's result lies."""
    signs, paper = {"max_epochs": "epochs", "image_size": "pixels"}, as_in_the_paper(name)
    changed = [f"-{size_and_epochs[k]}{sign}" for k, sign in signs.items() if size_and_epochs[k] != paper[k]]
    return RESULTS / f"{name}-{Path(backbone).stem}{''.join(changed)}-{seed}.json"


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error (unbiased deviation over the root of n; NaN for one value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def table(results: Iterable[dict[str, Any]]) -> str:
    """A Markdown table, a row for each set, backbone, picture size, number of epochs and test."""
    groups: dict[tuple[str, str, int, int, str], list[dict[str, float]]] = {}
    for result in sorted(results, key=lambda r: (r["set"], r["backbone"], r["seed"])):
        size, epochs = (result["hyperparameters"][name] for name in ("image_size", "max_epochs"))
        for test, scores in result["test"].items():
            key = (result["set"], result["backbone"], size, epochs, test)
            groups.setdefault(key, []).append(scores)
    lines = [
        "| set | backbone | pixels | epochs | test | seeds | scores, mean ± standard error |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, backbone, size, epochs, test), runs in groups.items():
        cells = []
        for metric in runs[0]:
            mean, error = mean_and_error([scores[metric] for scores in runs])
            cells.append(f"{metric} {mean:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}"))
        row = (name, backbone, size, epochs, test, len(runs), ", ".join(cells))
        lines.append(f"| {' | '.join(str(cell) for cell in row)} |")
    return "\n".join(lines)


def list_sets() -> None:
    """Print each set, whether it could be had, and why not."""
    for name, spec in SETS.items():
        try:
            state = ", ".join(f"{key} {len(frame)}" for key, frame in read(spec).items())
        except LayoutError as error:
            state = f"can't be had here: {error}"
        print(f"{name:20} {spec.source}\n{'':20} {state}" + (f"\n{'':20} {spec.note}" if spec.note else ""))


def _size_and_epochs(name: str, arguments: argparse.Namespace) -> dict[str, int]:
    """What the command says, else what the paper does."""
    said = {"max_epochs": arguments.max_epochs, "image_size": arguments.image_size}
    return as_in_the_paper(name) | {key: value for key, value in said.items() if value is not None}


def _run_missing(arguments: argparse.Namespace) -> bool:
    """Run what has no result, one at a time; True if nothing failed or was stopped."""
    good = True
    for name in arguments.names:
        changed = _size_and_epochs(name, arguments)
        for seed in arguments.seeds:
            if result_path(name, seed, arguments.backbone, changed).exists():
                continue
            command = [sys.executable, "-m", "benchmarks.paper.run", "--one", name, str(seed)]
            command += ["--backbone", arguments.backbone]
            command += [
                "--max-epochs",
                str(changed["max_epochs"]),
                "--image-size",
                str(changed["image_size"]),
            ]
            ended = run_apart(command)
            if ended is None:
                return False
            if ended[0]:
                print(f"{name}, seed {seed}: {ended[1]}", file=sys.stderr)
                good = False
    return good


def main() -> int:
    """Parse, run what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*SETS, []], metavar="SET")
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--max-epochs", type=int, help="default: the paper's")
    parser.add_argument("--image-size", type=int, help=f"long side in pixels; default: {SIZE}")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SET", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        list_sets()
        return 0
    if arguments.one:
        name, seed = arguments.one[0], int(arguments.one[1])
        changed = _size_and_epochs(name, arguments)
        result = run(name, seed, arguments.backbone, changed)
        RESULTS.mkdir(exist_ok=True)
        path = result_path(name, seed, arguments.backbone, changed)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return 0
    failed = not _run_missing(arguments)
    print(table(json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
