"""A search in several processes: who trains what, what happens when one of them dies, how one joins."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.cli import main as command
from semseg_automl.search import trials
from semseg_automl.search.notice import NOTICE, crew_folder
from semseg_automl.search.pulse import read_beat
from semseg_automl.search.run_folder import FOLDER, RunFolder
from semseg_automl.search.storage import open_storage
from semseg_automl.search.study import quiet_optuna
from semseg_automl.search.trial import Attempt
from semseg_automl.training.job import Hooks, TrainJob
from tests.integration.quick import SMALL, tiny

PATIENCE = 300.0  # seconds: starting a process that loads torch takes long on a busy machine
COUNTED: dict[str, Any] = {
    "hyperparameters": {**SMALL, "max_epochs": 10},
    "hyperparameter_tune_kwargs": {"num_workers": 2, "num_trials": 4},
}


def journal_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    if not RunFolder(folder).holds_study:
        return []
    with quiet_optuna():
        storage = open_storage(None, RunFolder(folder).path)
        try:
            return optuna.load_study(study_name=folder.name, storage=storage).trials
        except KeyError:  # not begun yet
            return []


def wait_for(what: Callable[[], Any]) -> Any:
    """The first answer that is not empty."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def trial_of(folder: Path, worker: str) -> Callable[[], list[optuna.trial.FrozenTrial]]:
    return lambda: [t for t in journal_of(folder) if t.user_attrs.get("worker") == worker]


def hold_main_until(happened: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Main's first training starts when something has happened: alone it would do all of it by itself."""
    real, waited = trials.run_trial, threading.Event()

    def run_trial(job: TrainJob, hooks: Hooks) -> Attempt:
        if not waited.is_set():
            waited.set()
            wait_for(happened)
        return real(job, hooks)

    monkeypatch.setattr(trials, "run_trial", run_trial)


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not collected yet does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    return not Path("/proc").is_dir()


def pid_of(folder: Path, worker: str) -> Callable[[], int | None]:
    return lambda: (read_beat(crew_folder(RunFolder(folder)) / f"{worker}.json") or {}).get("pid")


def test_two_workers_share_a_search(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    hold_main_until(trial_of(folder, "worker_1"), monkeypatch)
    seg = tiny(folder).fit(textures, **COUNTED)
    board = seg.leaderboard().set_index("model")
    assert sorted(board.index) == ["default", "majority_class", "trial_1", "trial_2", "trial_3"]
    of_trials = {row["model"]: row["worker"] for row in seg.fit_summary(show=False)["search"]}
    assert set(of_trials.values()) == {"main", "worker_1"} and of_trials["default"] == "main"
    assert {model: board.loc[model, "worker"] for model in of_trials} == of_trials
    assert all(t.state.name == "COMPLETE" for t in seg.study_.trials)
    assert seg.best_score_ == board["score_val"].max()  # whoever trained it
    again = SemanticSegmentor.load(folder, verbosity=0)
    assert again.best_score_ == seg.best_score_ and len(again.predict(textures)) == len(textures)
    assert list(again.leaderboard()["worker"]) == list(seg.leaderboard()["worker"])
    assert not (folder / FOLDER).exists()
    assert (folder / "logs" / "trial_1" / "metrics.csv").is_file()


def test_a_worker_that_is_killed_loses_one_trial_which_is_repeated_once(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, killed = tmp_path / "m", []

    def kill() -> bool:
        found = trial_of(folder, "worker_1")()
        if found:
            os.kill(pid_of(folder, "worker_1")(), signal.SIGKILL)  # type: ignore[arg-type]
            killed.append(found[0].number)
        return bool(found)

    hold_main_until(kill, monkeypatch)
    seg = tiny(folder, verbosity=1).fit(textures, **COUNTED)
    found = seg.study_.trials
    assert found[killed[0]].state.name == "FAIL"
    repeated = [t for t in found if t.user_attrs.get("requeue_of") == killed[0]]
    assert len(repeated) == 1 and repeated[0].state.name == "COMPLETE"
    assert repeated[0].params == found[killed[0]].params
    assert sum("requeue_of" in t.user_attrs for t in found) == 1
    board = seg.leaderboard()
    assert len(board) == 5 and {"default", "majority_class", f"trial_{killed[0]}"} <= set(board["model"])
    assert board["score_val"].notna().all() and "worker_1 is gone" in caplog.text


SCRIPT = """
import sys
from semseg_automl import SemanticSegmentor
seg = SemanticSegmentor(backbone="sam_tiny", path=sys.argv[1], verbosity=0)
seg.fit("train.csv", hyperparameters={"image_size": 64}, hyperparameter_tune_kwargs={"num_workers": 2},
        time_limit=float(sys.argv[2]), resume="resume" in sys.argv)
print(len(seg.predict("train.csv")), seg.best_score_)
"""


def start(folder: Path, table: pd.DataFrame, limit: float, **arguments: Any) -> subprocess.Popen:
    table.to_csv(folder.parent / "train.csv", index=False)
    line = [sys.executable, "-c", SCRIPT, str(folder), str(limit)]
    return subprocess.Popen(line, cwd=folder.parent, stdout=subprocess.PIPE, text=True, **arguments)


def test_workers_end_with_the_main_process_and_resume_goes_on(textures: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    process = start(folder, textures, 600)
    try:
        wait_for(trial_of(folder, "worker_1"))
        helper = wait_for(pid_of(folder, "worker_1"))
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not is_alive(helper))
    before = {t.number: t.state.name for t in journal_of(folder)}
    seconds = RunFolder(folder).seconds()
    lost = [number for number, state in before.items() if state == "RUNNING"]
    assert trial_of(folder, "worker_1")()[-1].number in lost
    arguments = {"hyperparameters": {"image_size": 64}, "hyperparameter_tune_kwargs": {"num_workers": 1}}
    seg = tiny(folder).fit(textures, resume=True, time_limit=seconds + 15, **arguments)
    found = seg.study_.trials
    assert {found[number].state.name for number in lost} == {"FAIL"}
    repeated = [t.user_attrs["requeue_of"] for t in found if "requeue_of" in t.user_attrs]
    assert sorted(repeated) == sorted(lost)
    assert len(seg.predict(textures)) == len(textures)


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C can't be sent to one process there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_keeps_the_best(
    number: signal.Signals, textures: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    process = start(folder, textures, 600)
    try:
        wait_for(trial_of(folder, "worker_1"))
        wait_for(lambda: list((folder / FOLDER).glob("*.safetensors")))
        helper = wait_for(pid_of(folder, "worker_1"))
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGTERM)
    wait_for(lambda: not is_alive(helper))
    seg = SemanticSegmentor.load(folder, verbosity=0)
    assert len(seg.predict(textures)) == len(textures)
    if number == signal.SIGINT:
        assert float(out.split()[1]) == seg.best_score_


def test_a_worker_joins_from_another_shell(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    helpers: list[subprocess.Popen] = []

    def joined() -> bool:
        if not helpers and (crew_folder(RunFolder(folder)) / NOTICE).is_file():
            code = "import sys; from semseg_automl.cli import main; raise SystemExit(main(sys.argv[1:]))"
            line = ["worker", str(folder), "--json", "--name", "friend", "-q"]
            helpers.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, *line], cwd="/", stdout=subprocess.PIPE, text=True
                )
            )
        return bool(trial_of(folder, "friend")())

    hold_main_until(joined, monkeypatch)
    alone = {**COUNTED, "hyperparameter_tune_kwargs": {"num_trials": 4}}
    monkeypatch.chdir(tmp_path)
    seg = tiny(Path("m")).fit(textures, **alone)
    out, _ = helpers[0].communicate(timeout=PATIENCE)
    assert helpers[0].returncode == 0
    said = json.loads(out)
    owners = [row["worker"] for row in seg.fit_summary(show=False)["search"]]
    assert set(owners) == {"main", "friend"}
    assert said == {
        "worker": "friend",
        "trials": owners.count("friend"),
        "reason": "the search has ended",
    }
    assert "friend" in set(seg.leaderboard()["worker"])


def test_nothing_to_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert command(["worker", str(folder)]) == 2
        assert "No search that can be joined is running" in capsys.readouterr().err
    for wrong, text in ((["--name", "a/b"], "--name 'a/b'"), (["--threads", "0"], "at least 1, got 0")):
        assert command(["worker", str(tmp_path), *wrong]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1.0, 5.0, 30.0])
def test_two_workers_keep_the_limit(limit: float, textures: pd.DataFrame, tmp_path: Path) -> None:
    started = time.monotonic()
    seg = tiny(tmp_path / "m").fit(
        textures,
        time_limit=limit,
        hyperparameters={"image_size": 64},
        hyperparameter_tune_kwargs={"num_workers": 2},
    )
    assert time.monotonic() - started <= 1.05 * limit + 5.0
    assert len(seg.predict(textures)) == len(textures)
