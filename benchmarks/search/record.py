"""What the search benchmarks share: tables, processes of their own, results that are not run twice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"


def circumstances() -> dict[str, Any]:
    """Versions, commit and hardware, as the quality benchmark tells them."""
    return _quality().circumstances()


def _quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality_run", HERE.parent / "quality" / "run.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("benchmarks/quality/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def data(name: str) -> Path:
    """Folder of a data set with train.csv, val.csv and test.csv."""
    return Path(os.environ["SEMSEG_AUTOML_DATA"]) / name


def load(name: str) -> dict[str, Any]:
    """The results so far; empty where there are none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}}


def store(name: str, content: dict[str, Any]) -> None:
    """Write the results so far, with the circumstances of the latest run."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**content, **circumstances()}, indent=2) + "\n"
    scratch = RESULTS / f"{name}.json.part"
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, RESULTS / f"{name}.json")


def run_once(name: str, key: str, script: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run ``script --one ARGUMENTS`` in a process of its own, unless its result is there already."""
    content = load(name)
    if key not in content["runs"]:
        done = subprocess.run(
            [sys.executable, script, "--one", json.dumps(arguments)], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise SystemExit(f"{key}: exit status {done.returncode}")
        content["runs"][key] = json.loads(done.stdout.splitlines()[-1])
        content["runs"][key]["commit"] = circumstances()["commit"]
        store(name, content)
    print(key, json.dumps(content["runs"][key])[:200])
    return content["runs"][key]


def fitted(arguments: dict[str, Any]) -> dict[str, Any]:
    """Fit mobile_sam as the arguments say, in this process; seconds, scores and the search's course.

    Arguments: set, limit, seed, threads, fit (arguments of ``fit``), test (whether the test table is
    scored).
    """
    import tempfile
    import time

    import torch

    from semseg_automl import SemanticSegmentor

    torch.set_num_threads(arguments["threads"])
    tables = data(arguments["set"])
    with tempfile.TemporaryDirectory() as folder:
        seg = SemanticSegmentor(
            backbone="mobile_sam", path=Path(folder) / "m", random_state=arguments["seed"], verbosity=1
        )
        started = time.perf_counter()
        seg.fit(
            tables / "train.csv",
            tuning_data=tables / "val.csv",
            time_limit=arguments["limit"],
            **arguments["fit"],
        )
        seconds = time.perf_counter() - started
        summary = seg.fit_summary(show=False)
        usable = len(seg.predict(_one_picture(tables)))
        found = {
            "seconds": round(seconds, 2),
            "usable": usable == 1,
            "score_val": summary["score_val"],
            "best_model": summary["best_model"],
            "plan": summary["plan"],
            "in_steps": round(summary["seconds"]["steps_and_validation"] / seconds, 4),
            "progress": summary.get("progress", []),
            "models": seg.leaderboard()[["model", "score_val", "state", "fit_time"]].to_dict("records"),
        }
        if arguments["test"]:
            found["score_test"] = seg.score(tables / "test.csv")
    return found


def _one_picture(tables: Path) -> Any:
    import pandas as pd

    table = pd.read_csv(tables / "val.csv").head(1)
    return table.assign(image=[str(tables / name) for name in table["image"]])
