"""Kill -9 in the middle of a fit: what was validated is not lost, ``resume=True`` goes on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.search import trials
from semseg_automl.search.run_folder import FOLDER, STUDY, RunFolder
from semseg_automl.search.storage import open_storage
from semseg_automl.search.study import quiet_optuna
from semseg_automl.search.trial import Attempt
from semseg_automl.training.checkpoint import Checkpoint, read_checkpoint
from semseg_automl.training.job import Hooks, TrainJob
from tests.integration.quick import SMALL, tiny

ONE_MODEL = {"hyperparameters": {**SMALL, "max_epochs": 120}, "hyperparameter_tune_kwargs": None}


def newest(folder: Path, pattern: str) -> int:
    """When the last of these states was written, in ns; 0 where there is none."""
    found = [0]
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # it was removed since
            found.append(path.stat().st_mtime_ns)
    return max(found)


def fit_and_kill(table: pd.DataFrame, folder: Path, arguments: dict, wanted: str, resume: bool) -> None:
    """Fit in another process and end it without warning once it has written such a state anew."""
    table.to_csv(folder.parent / "train.csv", index=False)
    states = Path(str(RunFolder(folder).path))
    before = newest(states, wanted)
    code = (
        "from semseg_automl import SemanticSegmentor\n"
        f"seg = SemanticSegmentor(backbone='sam_tiny', path={str(folder)!r}, verbosity=0)\n"
        f"seg.fit('train.csv', resume={resume}, **{arguments!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder.parent)
    try:
        deadline = time.monotonic() + 120
        while newest(states, wanted) <= before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def state_of(folder: Path) -> Checkpoint:
    state = read_checkpoint(str(RunFolder(folder).checkpoint("default")))
    assert state is not None
    return state


def test_one_model_goes_on_where_it_was(textures: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    fit_and_kill(textures, folder, ONE_MODEL, "default.safetensors", resume=False)
    killed = state_of(folder)
    assert killed.step > 0 and not (folder / "current.json").exists()

    with pytest.raises(ArtifactError, match=r"a fit that was cut short.*resume=True"):
        tiny(folder).fit(textures, **ONE_MODEL)
    other = {**SMALL, "max_epochs": 120, "learning_rate": 0.5}
    with pytest.raises(ConfigError, match=r"learning_rate \(0.001 -> 0.5\)"):
        tiny(folder).fit(textures, resume=True, hyperparameters=other, hyperparameter_tune_kwargs=None)
    with pytest.raises(ConfigError, match=r"learned mean_iou of .*, now it is dice of"):
        tiny(folder, eval_metric="dice").fit(textures, resume=True, **ONE_MODEL)
    assert state_of(folder).step == killed.step  # a refused fit has cost nothing

    epochs = (killed.step + 10) * 4 / 10  # ten more steps: batches of 4 of 10 training pictures
    seg = tiny(folder).fit(
        textures,
        resume=True,
        hyperparameters={**SMALL, "max_epochs": int(epochs)},
        hyperparameter_tune_kwargs=None,
    )
    summary = seg.fit_summary(show=False)
    assert summary["runs"] == 1 and summary["history"][: len(killed.history)] == [
        list(h) for h in killed.history
    ]
    assert killed.step < summary["history"][-1][0] <= killed.step + 10
    assert summary["seconds"]["total"] > killed.seconds
    assert sorted(seg.leaderboard()["model"]) == ["default", "majority_class"]
    assert seg.best_score_ >= max(h[2] for h in killed.history) - 0.2  # a usable model
    assert len(SemanticSegmentor.load(folder, verbosity=0).predict(textures)) == len(textures)
    assert not (folder / FOLDER).exists()


@pytest.mark.slow
def test_a_search_with_rungs_survives_kills_at_any_moment(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Each part is killed as soon as it has written some model's state; what was finished stays as it was."""
    folder, files = tmp_path / "m", RunFolder(tmp_path / "m")
    arguments = {"time_limit": 240, "hyperparameters": {"image_size": 64}, "hyperparameter_tune_kwargs": {}}
    done: dict[int, object] = {}
    seconds = 0.0
    for resume in (False, True, True, True):
        fit_and_kill(textures, folder, arguments, "*.safetensors", resume=resume)
        ended = {t.number: t.datetime_complete for t in journal_of(folder) if t.state.is_finished()}
        assert {n: ended[n] for n in done} == done and files.seconds() >= seconds
        done, seconds = ended, files.seconds()
    seg = tiny(folder).fit(textures, resume=True, **{**arguments, "time_limit": seconds + 60})
    assert {t.number: t.datetime_complete for t in seg.study_.trials if t.number in done} == done
    repeated = [t.user_attrs["requeue_of"] for t in seg.study_.trials if "requeue_of" in t.user_attrs]
    assert len(repeated) == len(set(repeated))
    assert seg.fit_summary(show=False)["seconds"]["total"] <= 1.05 * (seconds + 60) + 5
    board, best = seg.leaderboard().set_index("model"), seg.fit_summary(show=False)["best_model"]
    assert board.loc[best, "score_val"] == seg.best_score_  # the highest, or what was trained further
    assert len(seg.predict(textures)) == len(textures)


SEARCH = {
    "hyperparameters": {**SMALL, "max_epochs": 4},
    "hyperparameter_tune_kwargs": {"num_trials": 4, "pruner": optuna.pruners.NopPruner()},
}


def journal_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    with quiet_optuna():
        storage = open_storage(None, RunFolder(folder).path)
        return optuna.load_study(study_name=folder.name, storage=storage).trials


class Killed(BaseException):
    """Stands for the end of the process: nothing is told to the study any more."""


def test_a_search_goes_on_and_repeats_nothing(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    real, calls = trials.run_trial, []

    def dies_in_the_third(job: TrainJob, hooks: Hooks) -> Attempt:
        calls.append(job)
        if len(calls) == 3:
            real(job, replace(hooks, report=lambda _step, _score: True))  # to its first validation
            raise Killed
        return real(job, hooks)

    monkeypatch.setattr(trials, "run_trial", dies_in_the_third)
    with pytest.raises(Killed):
        tiny(folder).fit(textures, **SEARCH)
    before = journal_of(folder)
    assert [t.state.name for t in before] == ["COMPLETE", "COMPLETE", "RUNNING"]
    lost = read_checkpoint(str(RunFolder(folder).checkpoint("trial_2")))
    seg = tiny(folder).fit(textures, resume=True, **SEARCH)
    assert len(calls) == 5 and calls[3].config == calls[2].config  # the lost one, and the fourth
    found = seg.study_.trials
    for old in before[:2]:  # not run again, not changed
        assert found[old.number].datetime_complete == old.datetime_complete
        assert found[old.number].value == old.value
    assert [t.user_attrs.get("requeue_of") for t in found] == [None, None, None, 2, None]
    assert [t.state.name for t in found] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    board = seg.leaderboard().set_index("model")
    assert sorted(board.index) == ["default", "majority_class", "trial_1", "trial_2", "trial_4"]
    assert lost is not None and lost.step > 0
    assert seg.best_score_ == board["score_val"].max()
    assert [row["model"] for row in seg.fit_summary(show=False)["search"]] == [
        "default", "trial_1", "trial_2", "trial_2", "trial_4"
    ]  # fmt: skip
    assert (folder / STUDY).is_file() and not (folder / FOLDER).exists()
    assert len(SemanticSegmentor.load(folder, verbosity=0).predict(textures)) == len(textures)
