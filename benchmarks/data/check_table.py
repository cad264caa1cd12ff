"""How soon an error in a large table is told: the wrong value is in the last mask of N, of 128 x 128 pixels.

    python benchmarks/data/check_table.py [--rows 50000] [--folder DIR]

``fit`` checks every header, decodes every mask and refuses the table before it looks for weights. The
pictures are generated first (not timed; kept in ``--folder`` for another run, else removed).
Writes results/check_table_N.json; exits with 1 if the bar (60 s for 50,000 rows, in proportion) is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from run import circumstances

from semseg_automl import SemanticSegmentor, SemsegError

BAR_SECONDS, BAR_ROWS = 60.0, 50_000
SIDE = 128


def make_table(folder: Path, rows: int) -> pd.DataFrame:
    """``rows`` pictures with a smooth background and noise, and masks of two rectangles; 9 in the last."""
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    for i in range(rows):
        image, mask = folder / f"{i:06d}.png", folder / f"{i:06d}_mask.png"
        if not mask.exists():
            rng = np.random.default_rng(i)
            coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE)), np.int16)
            noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(image)
            drawn = np.zeros((SIDE, SIDE), np.uint8)
            for _ in range(2):
                y, x = rng.integers(0, SIDE, 2)
                drawn[y : y + 40, x : x + 40] = 1
            Image.fromarray(drawn).save(mask)
        table.append((str(image), str(mask)))
    last = folder / "last_mask.png"
    Image.fromarray(np.full((SIDE, SIDE), 9, np.uint8)).save(last)
    table[-1] = (table[-1][0], str(last))
    return pd.DataFrame(table, columns=["image", "label"])


def measure(table: pd.DataFrame) -> tuple[float, str]:
    """Seconds until the error, and its text."""
    model = SemanticSegmentor(backbone="sam_tiny", classes={0: "background", 1: "thing"}, verbosity=2)
    started = time.perf_counter()
    try:
        model.fit(table)
    except SemsegError as error:
        return time.perf_counter() - started, str(error)
    raise RuntimeError("the wrong value was not found")


def main() -> int:
    """Make the table, measure, write the JSON, return 1 if the bar is missed or the row is not named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=BAR_ROWS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = make_table(arguments.folder or Path(scratch), arguments.rows)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # of the last minute
        seconds, text = measure(table)
    bar = BAR_SECONDS * arguments.rows / BAR_ROWS
    result = {
        "rows": arguments.rows,
        "seconds": round(seconds, 2),
        "bar_seconds": round(bar, 2),
        "met": seconds <= bar and str(arguments.rows - 1) in text,
        "message": text,
        "load_before": load,
        **circumstances(),
    }
    path = Path(__file__).parent / "results" / f"check_table_{arguments.rows}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(not result["met"])


if __name__ == "__main__":
    sys.exit(main())
