"""Three lines on real data sets: fit for 600 s, evaluate the whole test table, keep the figures as JSON.

    python benchmarks/quality/run.py [NAME ...]      all experiments without a result, one at a time
    python benchmarks/quality/run.py --check         compare the committed results with their bars

Data sets are found in $SEMSEG_AUTOML_DATA, weights in $SEMSEG_AUTOML_WEIGHTS. Each experiment runs in
a process of its own, alone on the machine; a result that is there already is not run again (--again).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VIEWS = ("none", "mirror", "scales")
"""Ways to predict (``tta``), compared on the validation table; the test table is scored the default way."""


def experiment(name: str) -> dict[str, Any]:
    """The experiment's description."""
    return json.loads((HERE / "experiments" / f"{name}.json").read_text(encoding="utf-8"))


def run(name: str) -> dict[str, Any]:
    """Run one experiment in this process and return its result."""
    started = time.perf_counter()
    import torch

    from semseg_automl import SemanticSegmentor

    spec = experiment(name)
    torch.set_num_threads(spec["threads"])
    data = Path(os.environ["SEMSEG_AUTOML_DATA"]) / spec["dataset"]
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder:
        seg = SemanticSegmentor(
            backbone=spec["backbone"], path=Path(folder) / "model", random_state=spec["seed"]
        )
        before = time.perf_counter()
        seg.fit(data / "train.csv", tuning_data=data / "val.csv", time_limit=spec["time_limit"])
        fitted = time.perf_counter()
        table = seg.evaluate(data / "test.csv", confidence=0.95)
        scores = table["value"].to_dict()
        ended = time.perf_counter()
        views = {name: seg.evaluate(data / "val.csv", spec["metric"], tta=name) for name in VIEWS}
        summary = seg.fit_summary(show=False)
        size = sum(f.stat().st_size for f in seg.path_.rglob("*") if f.is_file())
        per_class = {"foreground": round(scores["iou"], 4)} if "iou" in scores else classes(seg, data)
        row = seg.leaderboard().set_index("model").loc[summary["best_model"]]
    seconds = summary["seconds"]
    inside = seconds["steps_and_validation"]
    return {
        "experiment": spec,
        "n_train": rows(data / "train.csv"),
        "n_test": rows(data / "test.csv"),
        "test": {k: round(float(v), 4) for k, v in scores.items()},
        "test_interval_95": {k: [round(float(v), 4) for v in table.loc[k, ["low", "high"]]] for k in scores},
        "test_iou_per_class": per_class,
        "validation_score": round(summary["score_val"], 4),
        "validation_of_views": {
            name: round(float(found[spec["metric"]]), 4) for name, found in views.items()
        },
        "threshold": summary["threshold"],
        "fit_seconds": round(fitted - before, 2),
        "seconds_outside_steps_share": round(1 - inside / (fitted - before), 4),
        "evaluate_seconds": round(ended - fitted, 2),
        "import_before_fit_seconds": round(before - started, 2),
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
        "plan": summary["plan"],
        "steps": summary["steps"],
        "epochs": round(summary["epochs"], 2),
        "precision": summary["precision"],
        "seconds_per_step": round(float(row["seconds_per_step"]), 4),
        "peak_memory_mb": round(float(row["peak_memory_mb"])),
        "n_trainable": int(row["n_trainable"]),
        "image_size": str(row["image_size"]),
        "routing": str(row["routing"]),
        "history": summary["history"],
        "artifact_mib": round(size / 2**20, 2),
        "load_average_before": load_before,
        **circumstances(),
    }


def classes(seg: Any, data: Path) -> dict[str, float]:
    """IoU of each class on the test table."""
    return seg.evaluate(data / "test.csv", per_class=True)["iou"].round(4).to_dict()


def rows(table: Path) -> int:
    """Number of pictures in a csv table."""
    return len(table.read_text(encoding="utf-8").splitlines()) - 1


def circumstances() -> dict[str, Any]:
    """Versions, commit and hardware."""
    import importlib.metadata as metadata

    import torch

    packages = ("torch", "torchvision", "lightning", "optuna", "numpy", "segment-anything")
    return {
        "versions": {name: metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "commit": commit(),
        "hardware": {
            "machine": platform.machine(),
            "processor": cpu_name(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "date": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """Short hash of the checked-out commit, with a plus sign if the package has changes; "" without git."""
    if shutil.which("git") is None:
        return ""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def cpu_name() -> str:
    """The processor's name where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def result_path(name: str) -> Path:
    """Where a result lies."""
    return HERE / "results" / f"{name}.json"


def check() -> int:
    """Print each result beside its bar; 1 if any bar is missed or any result is missing."""
    failed = 0
    for path in sorted((HERE / "experiments").glob("*.json")):
        spec = experiment(path.stem)
        if not result_path(path.stem).exists():
            print(f"{path.stem:24} no result yet")
            failed = 1
            continue
        result = json.loads(result_path(path.stem).read_text(encoding="utf-8"))
        value, bar = result["test"][spec["metric"]], spec["bar"]
        verdict = "" if bar is None else ("met" if value >= bar else "MISSED")
        kept = result["fit_seconds"] <= 1.05 * spec["time_limit"] + 5
        share = result["seconds_outside_steps_share"]
        failed |= verdict == "MISSED" or not kept or share > 0.10
        seconds = f"fit {result['fit_seconds']:.1f} s, {100 * share:.1f} % of it outside steps"
        print(f"{path.stem:24} {spec['metric']:9} {value:.4f} bar {bar} {verdict:7} {seconds}")
    return int(failed)


def main() -> int:
    """Parse, run what is missing, check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--again", action="store_true", help="run experiments that have a result, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        result = run(arguments.one)
        result_path(arguments.one).parent.mkdir(exist_ok=True)
        result_path(arguments.one).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return 0
    if not arguments.check:
        names = arguments.names or sorted(p.stem for p in (HERE / "experiments").glob("*.json"))
        for name in names:
            if arguments.again or not result_path(name).exists():
                subprocess.run([sys.executable, __file__, "--one", name], check=False)
    return check()


if __name__ == "__main__":
    sys.exit(main())
