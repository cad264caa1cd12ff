"""Memory of ``evaluate`` over many pictures: flat, and below 1 GiB.

    python benchmarks/evaluate/memory.py [--pictures 10000] [--size 1024]

Pictures and masks are cut on the fly from one field of noise (NumPy views, each at another place, so that
the table holds nothing), three classes, the default report, no mirroring. The network is a stub (a pooling
and a fixed 1x1 convolution): what is measured is reading, batching, resizing and counting. A process of
its own fits and stores the model; the process that is measured loads it, as one does who evaluates a model.

Bars: the process never holds more than 1 GiB of resident memory, Python, torch and all else included
(VmHWM: its own memory and what is mapped from files, of which libraries are nearly all), and its resident
memory grows by less than 50 MB from a tenth of the pictures to the last. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl import SemanticSegmentor
from semseg_automl.core.hardware import read_meminfo
from semseg_automl.estimator._use import make_predictor

RESULTS = Path(__file__).parent / "results"
MOST, GROWTH = 1 << 30, 50e6
CLASSES = 3
KINDS = {"total": "VmRSS", "own": "RssAnon", "mapped_files": "RssFile"}


def resident(name: str = "VmRSS") -> int:
    """Resident memory of this process in bytes ("VmHWM": its peak)."""
    return read_meminfo(Path("/proc/self/status"))[name]


def parts() -> dict[str, int]:
    """Resident bytes: all of it, the process's own, and pages of files such as libraries."""
    return {kind: resident(name) for kind, name in KINDS.items()}


class Stub(nn.Module):
    """(B, 3, H, W) -> (B, K, H/4, W/4); notes the resident memory as pictures go by."""

    def __init__(self, pictures: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.linspace(-1, 1, 3 * CLASSES).view(CLASSES, 3, 1, 1))
        self.every = max(1, pictures // 10)
        self.seen = 0
        self.memory: dict[int, int] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits from colours alone."""
        self.seen += len(images)
        self.memory.setdefault(self.seen // self.every * self.every, resident())
        return F.conv2d(F.avg_pool2d(images, 4), self.mix)


def pictures(n: int, size: int) -> pd.DataFrame:
    """``n`` views of size x size into one field of noise, with masks."""
    rng = np.random.default_rng(0)
    field = rng.integers(0, 256, (2 * size, 2 * size, 3), np.uint8)
    labels = rng.integers(0, CLASSES, (2 * size, 2 * size), np.uint8)
    images, masks = np.empty(n, object), np.empty(n, object)
    for i, (y, x) in enumerate(rng.integers(0, size, (n, 2))):
        images[i], masks[i] = field[y : y + size, x : x + size], labels[y : y + size, x : x + size]
    return pd.DataFrame({"image": images, "label": masks})


def fit(folder: Path, size: int) -> None:
    """Store a model of three classes that sees pictures at ``size``."""
    SemanticSegmentor(backbone="sam_tiny", path=folder, verbosity=0).fit(
        pictures(4, 64),
        hyperparameters={"max_epochs": 1, "image_size": size, "num_experts": 2},
        hyperparameter_tune_kwargs=None,
        presets="fast_inference",
        devices="cpu",
    )


def measure(folder: Path, n: int, size: int) -> dict[str, Any]:
    """Load the model, put the stub into it, evaluate."""
    seg, stub = SemanticSegmentor.load(folder, verbosity=0), Stub(n)
    seg._predictor = make_predictor(seg, stub)
    before, started = parts(), time.perf_counter()
    found = seg.evaluate(pictures(n, size), tile=None)
    seconds, after = time.perf_counter() - started, parts()
    readings, peak = list(stub.memory.values()), resident("VmHWM")
    growth = readings[-1] - readings[1]
    return {
        "pictures": n,
        "size": [size, size],
        "classes": CLASSES,
        "resident_before": before,
        "resident_after": after,
        "resident_after_pictures": stub.memory,
        "peak": peak,
        "peak_bar": MOST,
        "growth": growth,
        "growth_bar": GROWTH,
        "met": peak < MOST and growth < GROWTH,
        "seconds": round(seconds, 1),
        "metrics": found,
    }


def main() -> int:
    """Measure, write the JSON, return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)  # this script calls itself
    arguments = parser.parse_args()
    n, size = arguments.pictures, arguments.size
    if arguments.fit is not None:
        fit(arguments.fit, size)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        subprocess.run([sys.executable, __file__, "--fit", str(model), "--size", str(size)], check=True)
        result = measure(model, n, size)
    result |= {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "cuda_build": torch.version.cuda,
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip(),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=2)
    (RESULTS / f"memory_{n}x{size}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
