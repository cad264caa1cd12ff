"""Training on windows of large pictures, as planned, against training on the same pictures resized whole.

    python benchmarks/tiles/large.py [--seconds 240] [--seeds 1]

Each picture of 3072 x 3072 is a mosaic of generated land (``datasets.make_aerial``, 768 pixels a side, turned
and mirrored; no piece in two tables), where roads are a few pixels wide. Both ways get the same time and the
same pictures, and are scored on unseen ones at their own size: windows in tiles, resized pictures whole, each
as it was trained.

Bar: windows give the higher mean IoU, and the higher IoU of the thinnest class (roads). Run it alone on the
machine: the clock ends the trainings.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from run import circumstances

PIECE, ACROSS = 768, 4
PIECES = {"train": 16, "val": 6, "test": 8}
PICTURES = {"train": 8, "val": 2, "test": 3}
ROAD = "3"
WAYS: dict[str, dict[str, Any]] = {"windows": {}, "whole": {"image_size": 1024, "crop_size": 448}}
"""Whole is what the planner chose for such pictures before it cut them."""


def mosaics(folder: Path, name: str, seed: int) -> Any:
    """A table of large pictures, put together from pieces that no other table has."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    from semseg_automl.datasets import make_aerial

    made = make_aerial(folder / "pieces" / name, PIECES[name], size=(PIECE, PIECE), seed=seed)
    pieces = [[np.asarray(Image.open(path)) for path in row] for row in made.to_numpy()]
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(PICTURES[name]):
        side = PIECE * ACROSS
        pair = [np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)]
        for k in range(ACROSS * ACROSS):
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            top, left = PIECE * (k // ACROSS), PIECE * (k % ACROSS)
            for whole, piece in zip(pair, pieces[int(rng.integers(len(pieces)))], strict=True):
                turned = np.rot90(piece[:, ::-1] if mirrored else piece, turns)
                whole[top : top + PIECE, left : left + PIECE] = turned
        rows.append([str(folder / f"{name}-{i}-{kind}.png") for kind in ("image", "mask")])
        for path, pixels in zip(rows[-1], pair, strict=True):
            Image.fromarray(pixels).save(path, compress_level=1)
    return pd.DataFrame(rows, columns=["image", "label"])


def measure(seg: Any, way: str, tables: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Train one way and score the test pictures."""
    seg.fit(
        tables["train"],
        tuning_data=tables["val"],
        time_limit=seconds,
        hyperparameters=WAYS[way],
        hyperparameter_tune_kwargs=None,
    )
    summary = seg.fit_summary(show=False)
    per_class = seg.evaluate(tables["test"], per_class=True)["iou"]
    return {
        "mean_iou": float(seg.evaluate(tables["test"], "mean_iou")["mean_iou"]),
        "iou": {str(name): round(float(value), 4) for name, value in per_class.items()},
        "validation_score": float(summary["score_val"]),
        "fit_seconds": round(summary["seconds"]["total"], 1),
        "steps": summary["steps"],
        "plan": summary["plan"],
    }


def main() -> int:
    """Measure, write the JSON, return 1 if the bar is missed."""
    from semseg_automl import SemanticSegmentor

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        tables = {name: mosaics(Path(folder), name, seed) for seed, name in enumerate(PICTURES)}
        for seed in range(args.seeds):
            for way in WAYS:
                seg = SemanticSegmentor(
                    backbone="mobile_sam", path=Path(folder) / f"{way}-{seed}", random_state=seed
                )
                found[way].append(measure(seg, way, tables, args.seconds))
    pairs = list(zip(found["windows"], found["whole"], strict=True))
    met = all(a["mean_iou"] > b["mean_iou"] and a["iou"][ROAD] > b["iou"][ROAD] for a, b in pairs)
    result = {
        "side": PIECE * ACROSS,
        "seconds": args.seconds,
        "pictures": PICTURES,
        **found,
        "met": met,
        **circumstances(),
    }
    path = Path(__file__).parent / "results" / "large.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
