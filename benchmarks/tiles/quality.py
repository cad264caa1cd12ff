"""What tiles cost in quality: a trained model's scores in tiles and whole, and where its errors lie.

    python benchmarks/tiles/quality.py MODEL [--set landcover_dubai] [--table val] [--tile 512]

MODEL is a folder that ``fit`` wrote; where there is none, a model is trained there on crops of the set's
training pictures (``--seconds``). A table of $SEMSEG_AUTOML_DATA/SET is predicted whole and in tiles: the
validation table while anything is still changed, the test table once, at the end.

Bars: the mean IoU (binary: the foreground's) in tiles at most 1 point below that of whole pictures, and the
share of wrong pixels within 8 pixels of a tile's border at most 1.05 times that elsewhere. The outer border
of a picture is no border of a tile. Scale and tiles are what the model's ``predict`` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from run import circumstances

POINTS, RATIO, NEAR = 0.01, 1.05, 8


def border_pixels(plan: Any) -> np.ndarray:
    """(H, W) bool: within ``NEAR`` stored pixels of an edge of a tile that lies inside of the picture."""
    masks = []
    for axis, firsts in enumerate((plan.tops, plan.lefts)):
        length, scaled = plan.original[axis], plan.scaled[axis]
        starts = {first * plan.cell for first in firsts}
        edges = starts | {start + plan.tile[axis] for start in starts}
        centres, near = np.arange(length) + 0.5, np.zeros(length, bool)
        for edge in edges:
            if 0 < edge < scaled:
                near |= np.abs(centres - edge * length / scaled) <= NEAR
        masks.append(near)
    return masks[0][:, None] | masks[1][None]  # (H, 1) | (1, W)


def errors(seg: Any, data: Any, tile: int, overlap: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Wrong and labelled pixels, each (near a tile's border, elsewhere), over the pictures that are cut."""
    from semseg_automl.data.frame import check_table
    from semseg_automl.data.labels import read_mask
    from semseg_automl.inference.tiling import TileRule, plan_tiles

    predictor, label_map = seg._get_predictor(), seg._model.label_map
    samples = check_table(data, image=seg.image, label=seg.label, need_label=True, role="table")
    wrong, seen, cut = np.zeros(2), np.zeros(2), 0
    for picture, target, size in zip(samples.images, samples.masks or (), samples.sizes, strict=True):
        plan = plan_tiles(size, predictor.image_size, TileRule.of(tile, overlap), predictor.trained)
        if plan is None:
            continue
        cut += 1
        truth = read_mask(target, label_map)
        found = label_map.encode(seg.predict(picture, tile=tile, tile_overlap=overlap))
        near, labelled = border_pixels(plan), truth >= 0
        for k, where in enumerate((near, ~near)):
            wrong[k] += ((found != truth) & labelled & where).sum()
            seen[k] += (labelled & where).sum()
    return wrong, seen, cut


def table_of(name: str, part: str) -> Any:
    """A table of a set, its paths made absolute."""
    import pandas as pd

    path = Path(os.environ["SEMSEG_AUTOML_DATA"]) / name / f"{part}.csv"
    return pd.read_csv(path).map(lambda cell: str(path.parent / str(cell)))


def train(folder: Path, name: str, seconds: float) -> None:
    """A model that learns from crops of 448 pixels out of pictures of up to 1024."""
    from semseg_automl import SemanticSegmentor

    SemanticSegmentor(backbone="mobile_sam", path=folder).fit(
        table_of(name, "train"),
        tuning_data=table_of(name, "val"),
        time_limit=seconds,
        hyperparameters={"image_size": 1024, "crop_size": 448},
        hyperparameter_tune_kwargs=None,
    )


def measure(seg: Any, data: Any, tile: int, overlap: float) -> dict[str, Any]:
    """Scores both ways, and the shares of wrong pixels near tile borders and elsewhere."""
    metric = "iou" if seg.problem_type_ == "binary" else "mean_iou"
    whole = seg.evaluate(data, metric, tile=None)[metric]
    tiles = seg.evaluate(data, metric, tile=tile, tile_overlap=overlap)[metric]
    wrong, seen, cut = errors(seg, data, tile, overlap)
    if not seen.all():
        raise SystemExit(f"No picture is cut into tiles of {tile}: choose a smaller --tile.")
    near, elsewhere = (float(share) for share in wrong / seen)
    return {
        "metric": metric,
        "score_whole": whole,
        "score_tiles": tiles,
        "lost": whole - tiles,
        "pictures_cut": cut,
        "error_near_borders": near,
        "error_elsewhere": elsewhere,
        "ratio": near / elsewhere if elsewhere else 1.0,
        "pixels_near_borders": int(seen[0]),
    }


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    from semseg_automl import SemanticSegmentor

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", default="landcover_dubai", help="a folder of $SEMSEG_AUTOML_DATA")
    parser.add_argument("--table", default="val", choices=("val", "test"))
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, where MODEL is no folder")
    parser.add_argument("--tile", type=int, default=512, help="side in pixels, after scaling")
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--rows", type=int, help="only so many rows, to try it")
    args = parser.parse_args()
    if not args.model.exists():
        train(args.model, args.set, args.seconds)
    data = table_of(args.set, args.table).head(args.rows)
    seg = SemanticSegmentor.load(args.model, verbosity=1)
    found = measure(seg, data, args.tile, args.overlap)
    met = found["lost"] <= POINTS and found["ratio"] <= RATIO
    result = {
        "set": args.set,
        "table": args.table,
        "pictures": len(data),
        "tile": args.tile,
        "overlap": args.overlap,
        "model": {
            name: seg.best_config_[name] for name in ("backbone", "image_size", "crop_size", "augment")
        },
        "score_val_of_training": seg.best_score_,
        **found,
        "bars": {"lost": POINTS, "ratio": RATIO},
        "met": met,
        **circumstances(),
    }
    path = Path(__file__).parent / "results" / f"quality_{args.set}_{args.table}_{args.tile}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
