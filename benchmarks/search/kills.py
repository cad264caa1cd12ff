"""Kill -9 at random moments of a search, then ``fit(resume=True)``.

    python benchmarks/search/kills.py [--kills 20] [--limit 60] [--workers 3]

Bars: every fit ends with a usable model; no finished trial is run again (its time of completion stays
what it was); the states on disk never go back. Then ``--workers`` searches in two processes, each of which
has one of them killed at a random moment of its training: the search ends with a usable model, and the
lost trial is queued again exactly once. Writes results/kills.json after each search; what is there already
is not run again. Runs on generated pictures and the test backbone: it is about the files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
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
        hyperparameter_tune_kwargs={"num_workers": int(sys.argv[2])}, resume="resume" in sys.argv)
print(len(seg.predict("train.csv")), seg.best_score_)
"""
_FIRST = 120.0  # seconds until a worker must have begun to train


def trials(folder: Path) -> list[Any]:
    """The trials on record in the folder of a fit, ended or not."""
    import optuna

    from semseg_automl.search.run_folder import RunFolder
    from semseg_automl.search.storage import open_storage

    files = RunFolder(folder)
    if not files.holds_study:
        return []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.load_study(study_name=folder.name, storage=open_storage(None, files.path)).trials
    except KeyError:  # killed before it had begun
        return []


def finished(folder: Path) -> dict[int, str]:
    """Number and time of completion of the trials that ended."""
    return {t.number: str(t.datetime_complete) for t in trials(folder) if t.state.is_finished()}


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
            process = subprocess.Popen([sys.executable, "-c", _FIT, str(limit), "1", *resume], cwd=root)
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
            [sys.executable, "-c", _FIT, str(2 * limit), "1", "resume"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
        return {
            "limit": limit,
            "killed_after": moments,
            "finished_before": len(before),
            "ended": done.returncode == 0 and done.stdout.startswith("12 "),
            "finished_trials_kept": kept,
            "states_never_went_back": forward,
            "last_part_seconds": round(seconds, 1),
            "error": done.stderr[-500:] if done.returncode else "",
        }


def one_worker(seed: int, limit: float) -> dict[str, Any]:
    """A search in two processes, one of which is killed while it trains."""
    from semseg_automl.data.datasets import make_textures
    from semseg_automl.search.run_folder import STUDY

    draw = random.Random(1000 + seed)
    with tempfile.TemporaryDirectory() as scratch:
        root, folder = Path(scratch), Path(scratch) / "m"
        table = make_textures(root / "data", n=12, size=(64, 80), n_classes=3, seed=seed)
        table.to_csv(root / "train.csv", index=False)
        line, started = [sys.executable, "-c", _FIT, str(limit), "2"], time.perf_counter()
        process = subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        beat = folder / "search" / "crew" / "worker_1.json"
        lost = _running(folder)
        while not lost and process.poll() is None and time.perf_counter() - started < _FIRST:
            time.sleep(0.2)
            lost = _running(folder)
        moment = draw.uniform(0.0, 0.1 * limit)
        time.sleep(moment)
        lost = _running(folder)  # at the moment of the kill
        if lost:
            os.kill(json.loads(beat.read_text(encoding="utf-8"))["pid"], signal.SIGKILL)
        out, error = process.communicate()
        seconds = time.perf_counter() - started
        again = _repeated(folder / STUDY, lost)
        return {
            "limit": limit,
            "killed_after_its_trial_began": round(moment, 2),
            "lost_trials": lost,
            "queued_again": again,
            "ended": process.returncode == 0 and out.startswith("12 "),
            "seconds": round(seconds, 1),
            "error": error[-500:] if process.returncode else "",
        }


def _running(folder: Path) -> list[int]:
    """Trials that the helper is at."""
    return [
        t.number
        for t in trials(folder)
        if t.user_attrs.get("worker") == "worker_1" and not t.state.is_finished()
    ]


def _repeated(journal: Path, lost: list[int]) -> int:
    """How often lost trials are queued again in the finished study."""
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(study_name="m", storage=optuna.storages.JournalStorage(backend))
    return sum(t.user_attrs.get("requeue_of") in lost for t in study.trials)


def main() -> int:
    """Run what is missing; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=3)
    arguments = parser.parse_args()
    missed = 0
    for seed in range(-(-arguments.kills // 3)):
        content = load("kills")
        found = content["runs"].get(str(seed)) or one(seed, arguments.limit)
        content["runs"][str(seed)] = found
        store("kills", content)
        print(seed, json.dumps(found))
        missed += not (found["ended"] and found["finished_trials_kept"] and found["states_never_went_back"])
    for seed in range(arguments.workers):
        content, key = load("kills"), f"worker {seed}"
        found = content["runs"].get(key) or one_worker(seed, 2 * arguments.limit)
        content["runs"][key] = found
        store("kills", content)
        print(key, json.dumps(found))
        missed += not found["ended"] or len(found["lost_trials"]) != 1 or found["queued_again"] != 1
    print("bars missed:", missed)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
