"""Peak memory of predicting one huge TIFF into a PNG, in a process of its own, at two sizes.

    python benchmarks/tiles/huge.py [--side 20000] [--backbone mobile_sam] [--overlap 0.25]

The picture is an uncompressed 8-bit RGB TIFF of side x side pixels, written row by row. The child loads
the backbone with an untrained head (what it predicts does not matter here), cuts the picture into tiles and
writes the mask while it is computed. A picture of half the side is predicted first, by a process of its
own; what was measured is kept in the JSON and not measured again (--again).

Bars: at most 3 GiB of peak resident memory, and no more than ``GROWTH`` times that of the smaller picture
(which has a quarter of the pixels). POSIX only (getrusage).
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from run import circumstances

BAR_GIB = 3.0
GROWTH = 1.15


def write_tiff(path: Path, side: int) -> None:
    """An RGB TIFF of coloured waves, in strips of 64 rows, never held whole."""
    import numpy as np

    strip = 64
    tops = range(0, side, strip)
    x = np.arange(side)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 8 + side * side * 3))
        for top in tops:
            y = np.arange(top, min(top + strip, side))[:, None]
            bands = [127.5 + 127.5 * np.sin((x + k * y) / (90 + 40 * k)) for k in (1, 2, 3)]
            file.write(np.stack(bands, axis=2).astype(np.uint8).tobytes())  # 3 x (n, W) -> (n, W, 3)
        offsets = [8 + top * side * 3 for top in tops]
        counts = [min(strip, side - top) * side * 3 for top in tops]
        behind = file.tell() + 2 + 9 * 12 + 4  # the directory
        tags = [
            (256, 4, 1, side),
            (257, 4, 1, side),
            (258, 3, 3, behind),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
            (273, 4, len(offsets), behind + 6),
            (277, 3, 1, 3),
            (278, 4, 1, strip),
            (279, 4, len(counts), behind + 6 + 4 * len(offsets)),
        ]
        file.write(struct.pack("<H", len(tags)))
        file.writelines(struct.pack("<HHII", *tag) for tag in tags)
        file.write(struct.pack("<I3H", 0, 8, 8, 8))
        file.write(struct.pack(f"<{2 * len(offsets)}I", *offsets, *counts))


def child(picture: Path, out: Path, backbone: str, image_size: int, overlap: float) -> None:
    """Predict one picture and print peak memory and time as JSON."""
    import resource

    from PIL import Image

    from semseg_automl.core.config import RunConfig
    from semseg_automl.data.fingerprint import PictureSizes
    from semseg_automl.data.frame import list_pictures
    from semseg_automl.data.labels import LabelMap
    from semseg_automl.inference.predict import Predictor
    from semseg_automl.inference.stream import write_masks
    from semseg_automl.inference.tiling import TileRule
    from semseg_automl.inference.writer import MaskWriter
    from semseg_automl.models.build import build_segmenter

    Image.MAX_IMAGE_PIXELS = None  # our own file
    names = ("a", "b", "c")
    labels = LabelMap(problem_type="multiclass", names=names, values=(0, 1, 2), ignore=None)
    config = RunConfig().replace(backbone=backbone, image_size=image_size)
    segmenter = build_segmenter(config, labels.num_outputs, seed=0)
    known = PictureSizes(median=(image_size, image_size), longest=image_size)
    predictor = Predictor(segmenter, labels, image_size, trained=known)
    pictures = list_pictures([str(picture)])
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    started = time.perf_counter()
    report = write_masks(
        predictor, pictures, MaskWriter(out, pictures.sources), [0], tile=TileRule.of("auto", overlap)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    values = {"peak_mib": round(peak), "loaded_mib": round(loaded), "masks": report.written}
    print(json.dumps({**values, "seconds": round(time.perf_counter() - started, 1)}))


def measure(side: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One picture of ``side``, predicted by a process of its own."""
    picture = folder / f"{side}.tif"
    write_tiff(picture, side)
    line = [sys.executable, __file__, "--backbone", args.backbone, "--image-size", str(args.image_size)]
    line += ["--overlap", str(args.overlap), "--child", str(picture)]
    try:
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        picture.unlink()
    found = json.loads(done.stdout.splitlines()[-1])
    load = os.getloadavg()[0]  # of the last minute, this run's own threads among it
    return {"side": side, **found, "pixels_a_second": round(side * side / found["seconds"]), "load": load}


def result_of(args: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is written: both runs, their ratio, whether the bars are met (None: a run is missing)."""
    result: dict[str, Any] = {
        "backbone": args.backbone,
        "image_size": args.image_size,
        "overlap": args.overlap,
        "runs": runs,
        "bars": {"peak_gib": BAR_GIB, "growth": GROWTH},
        "met": None,
        **circumstances(),
    }
    if len(runs) == 2:
        small, large = runs
        growth = large["peak_mib"] / small["peak_mib"]
        met = large["peak_mib"] <= BAR_GIB * 1024 and growth <= GROWTH and large["masks"] == 1
        result |= {"growth": round(growth, 3), "met": met}
    return result


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--backbone", default="mobile_sam")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.child.parent / "out", args.backbone, args.image_size, args.overlap)
        return 0
    path = Path(__file__).parent / "results" / f"huge_{args.backbone}_{args.side}_{args.overlap:g}.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() and not args.again else []
    with tempfile.TemporaryDirectory() as folder:
        for side in (args.side // 2, args.side)[len(known) :]:
            known.append(measure(side, args, Path(folder)))
            path.write_text(json.dumps(result_of(args, known), indent=2) + "\n", encoding="utf-8")
    result = result_of(args, known)
    print(json.dumps(result, indent=2))
    return int(not result["met"])


if __name__ == "__main__":
    sys.exit(main())
