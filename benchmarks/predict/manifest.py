"""Many small pictures to masks with a stub network: killed in the middle, begun again, memory watched.

    python benchmarks/predict/manifest.py [--pictures 100000] [--killed-at 0.4]

The pictures are 64 x 64 PNGs. A child process writes masks and is ended with SIGKILL when the given
share is there; a second one goes on. Bars: no finished mask is computed or written again, every mask is
there at the end, and between the first tenth of a run and its end resident memory grows by at most
``MEMORY_BAR`` MiB. POSIX only (SIGKILL), memory from /proc (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from run import circumstances

MEMORY_BAR = 32.0
SIDE = 64


def stub() -> Any:
    """A network without weights that counts the pictures it sees: foreground where red is strong."""
    import torch
    from torch import nn

    class Red(nn.Module):
        seen = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.seen += len(images)
            return nn.functional.avg_pool2d(images[:, :1], 4)

    return Red()


def child(folder: Path) -> None:
    """Write the masks; progress and memory go to ``watch.jsonl``, the report to ``report.json``."""
    from semseg_automl.data.frame import list_pictures
    from semseg_automl.data.labels import LabelMap
    from semseg_automl.inference import stream
    from semseg_automl.inference.predict import Predictor
    from semseg_automl.inference.writer import MaskWriter

    two = LabelMap(problem_type="binary", names=("no", "yes"), values=(0, 255), ignore=None)
    network = stub()
    predictor = Predictor(network, two, SIDE)
    pictures = list_pictures(sorted(str(p) for p in (folder / "in").iterdir()))
    writer = MaskWriter(folder / "out", pictures.sources, key="stub")
    write, every, count = writer.write, max(1, len(pictures) // 50), 0
    with (folder / "watch.jsonl").open("a", encoding="utf-8", buffering=1) as watch:

        def watched(position: int, mask: Any) -> Path:
            nonlocal count
            count += 1
            if count % every == 0:
                watch.write(json.dumps({"pid": os.getpid(), "written": count, "mib": resident()}) + "\n")
            return write(position, mask)

        writer.write = watched  # type: ignore[method-assign]
        started = time.monotonic()
        report = stream.write_masks(predictor, pictures, writer, range(len(pictures)))
    values = {"written": report.written, "skipped": report.skipped, "failed": len(report.failures)}
    values |= {"seen": network.seen, "seconds": round(time.monotonic() - started, 1), "said": str(report)}
    (folder / "report.json").write_text(json.dumps(values), encoding="utf-8")


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def make_pictures(folder: Path, n: int) -> None:
    """``n`` small PNGs of random blocks of colour."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        blocks = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        blocks.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(folder / f"{i:07d}.png", compress_level=1)


def start(folder: Path) -> subprocess.Popen:
    """A child process on the folder."""
    return subprocess.Popen([sys.executable, __file__, "--child", str(folder)])


def growth(lines: list[dict[str, Any]], pid: int) -> float:
    """MiB between the first tenth of a process's run and its largest value after it."""
    mine = [line["mib"] for line in lines if line["pid"] == pid]
    first = max(1, len(mine) // 10)
    return round(max(mine[first:], default=mine[-1]) - max(mine[:first]), 1)


def measure(n: int, share: float, folder: Path) -> dict[str, Any]:
    """Kill, begin again, compare."""
    make_pictures(folder / "in", n)
    out = folder / "out"
    out.mkdir()
    first = start(folder)
    while sum(name.endswith(".png") for name in os.listdir(out)) < share * n:
        if first.poll() is not None:
            raise RuntimeError("the first process ended before it was killed")
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    second = start(folder)
    if second.wait():
        raise RuntimeError(f"the second process failed with {second.returncode}")
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    lines = [json.loads(line) for line in (folder / "watch.jsonl").read_text(encoding="utf-8").splitlines()]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "pictures": n,
        "finished_when_killed": len(before),
        "written_again": sum(after[name] != changed for name, changed in before.items()),
        "computed_again": report["seen"] - (n - len(before)),
        "masks_at_the_end": len(after),
        "memory_growth_mib": [growth(lines, first.pid), growth(lines, second.pid)],
        "memory_mib_at_the_end": lines[-1]["mib"],
        "second_run": report,
        "bar_mib": MEMORY_BAR,
    }


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--killed-at", type=float, default=0.4)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.pictures, args.killed_at, Path(folder))
    missed = (
        result["written_again"]
        or result["computed_again"]
        or result["masks_at_the_end"] != args.pictures
        or max(result["memory_growth_mib"]) > MEMORY_BAR
    )
    load = os.getloadavg()[0]  # of the last minute
    result = {**result, "met": not missed, "load_after": load, **circumstances()}
    path = Path(__file__).parent / "results" / "manifest.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
