"""Kill -9 at random moments of a search, then ``fit(resume=True)``.

    python benchmarks/search/kills.py [--kills 20] [--limit 60]

Bars: every fit ends with a usable model; no finished trial is run again (its time of completion stays
what it was); the states on disk never go back. Writes results/kills.json after each kill; what is
there already is not run again. Runs on generated pictures and the test backbone: it is about the files.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import load, store

_FIT = """
import sys; from semseg_automl import SemanticSegmentor
seg = SemanticSegmentor(backbone="sam_tiny", path="m", verbosity=0)
seg.fit("train.csv", time_limit=float(sys.argv[1]), hyperparameters={"image_size": 64},
        hyperparameter_tune_kwargs={}, resume=len(sys.argv) > 2)
print(len(seg.predict("train.csv")), seg.best_score_)
"""


def finished(folder: Path) -> dict[int, str]:
    """Number and time of completion of the trials on record."""
    import optuna

    from semseg_automl.search.run_folder import RunFolder
    from semseg_automl.search.storage import open_storage

    files = RunFolder(folder)
    if not files.holds_study:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=folder.name, storage=open_storage(None, files.path))
    return {t.number: str(t.datetime_complete) for t in study.trials if t.state.is_finished()}


def steps(folder: Path) -> dict[str, int]:
    """Steps of each model on disk."""
    from semseg_automl.search.run_folder import FOLDER
    from semseg_automl.training.checkpoint import read_checkpoint

    states = {path.name: read_checkpoint(path) for path in (folder / FOLDER).glob("*.safetensors")}
    return {name: state.step for name, state in states.items() if state is not None}


def one(seed: int, limit: float) -> dict[str, Any]:
    """A search that is killed three times at random moments and then ends."""
    from semseg_automl.data.datasets import make_textures

    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        root, folder = Path(scratch), Path(scratch) / "m"
        table = make_textures(root / "data", n=12, size=(64, 80), n_classes=3, seed=seed)
        table.to_csv(root / "train.csv", index=False)
        moments, kept, forward = [], True, True
        for _ in range(3):
            before, earlier = finished(folder), steps(folder)
            resume = ["resume"] if folder.exists() else []
            process = subprocess.Popen([sys.executable, "-c", _FIT, str(limit), *resume], cwd=root)
            moments.append(round(draw.uniform(4.0, 0.4 * limit), 2))
            time.sleep(moments[-1])
            process.kill()
            process.wait()
            after, later = finished(folder), steps(folder)
            kept &= all(after.get(number) == at for number, at in before.items())
            forward &= all(later.get(name, 0) >= step for name, step in earlier.items())
        before = finished(folder)
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _FIT, str(2 * limit), "resume"], cwd=root, capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        return {
            "killed_after": moments,
            "finished_before": len(before),
            "ended": done.returncode == 0 and done.stdout.startswith("12 "),
            "finished_trials_kept": kept,
            "states_never_went_back": forward,
            "last_part_seconds": round(seconds, 1),
            "error": done.stderr[-500:] if done.returncode else "",
        }


def main() -> int:
    """Run what is missing; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--limit", type=float, default=60.0)
    arguments = parser.parse_args()
    missed = 0
    for seed in range(-(-arguments.kills // 3)):
        content = load("kills")
        found = content["runs"].get(str(seed)) or one(seed, arguments.limit)
        content["runs"][str(seed)] = found
        store("kills", content)
        print(seed, json.dumps(found))
        missed += not (found["ended"] and found["finished_trials_kept"] and found["states_never_went_back"])
    print("bars missed:", missed)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
