"""Folders: which one a fit writes into, and when an earlier run is finished."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semseg_automl.core.errors import ArtifactError
from semseg_automl.core.results import ModelRow
from semseg_automl.estimator import _fit, _store
from semseg_automl.estimator._keeper import Earlier, _better
from semseg_automl.search.planner import DEFAULT_SEARCH_SECONDS
from tests.unit.estimator.test_resolve import resolve


def choose(path: Path | None, *, resume: bool = False, is_clone: bool = False) -> Path:
    return _store.choose_folder(path, resume=resume, is_clone=is_clone)


def test_no_path_is_a_new_stamped_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_store.time, "strftime", lambda _format: "20260102_030405")
    names = [choose(None).relative_to(tmp_path).as_posix() for _ in range(3)]  # absolute, wherever one goes
    stamp = "SemsegModels/20260102_030405"
    assert names == [stamp, f"{stamp}_2", f"{stamp}_3"]


def test_a_path_is_created_and_may_exist_empty(tmp_path: Path) -> None:
    assert choose(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert choose(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert choose(Path("~/m")) == tmp_path / "m"


@pytest.mark.parametrize("name", ["current.json", "fit_summary.json"])
def test_a_model_or_search_is_only_gone_on_from(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ArtifactError, match="resume=True"):
        choose(tmp_path)
    assert choose(tmp_path, resume=True) == tmp_path


def test_clones_get_subfolders_even_side_by_side(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: choose(tmp_path, is_clone=True), range(24)))
    assert sorted(f.name for f in found) == sorted(f"fit_{n}" for n in range(1, 25))
    assert choose(tmp_path, is_clone=True).name == "fit_25"


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, is_clone in itertools.product((tmp_path / "file", tmp_path / "file" / "m"), (False, True)):
        with pytest.raises(ArtifactError, match="can't be written"):
            choose(path, is_clone=is_clone)


def test_summaries_round_trip_and_broken_ones_are_told(tmp_path: Path) -> None:
    rows = [ModelRow(model="default", score_val=0.5, state="time", config={"rank": 8, "scales": None})]
    rows.append(ModelRow(model="failed", score_val=math.nan, state="failed", reason="because"))
    _store.write_summary(tmp_path, rows, {"plan": ["one"], "path": Path("x")})
    found, summary = _store.read_summary(tmp_path)
    assert [r.model for r in found] == ["default", "failed"] and math.isnan(found[1].score_val)
    assert found[0] == rows[0] and summary == {"plan": ["one"], "path": "x"}
    assert _store.read_summary(tmp_path / "nothing") == ([], {})
    (tmp_path / _store.SUMMARY).write_text('{"rows": 5}')
    with pytest.raises(ArtifactError, match="can't be read"):
        _store.read_summary(tmp_path)


@pytest.mark.parametrize(
    ("limit", "summary", "finished"),
    [
        (60.0, {"seconds": {"total": 60.0}, "state": "time"}, True),
        (60.0, {"seconds": {"total": 59.0}, "state": "time"}, False),
        (60.0, {"seconds": {"total": 5.0}, "state": "finished", "epochs": 30.0}, False),
        (math.inf, {"seconds": {"total": 5.0}, "state": "finished", "epochs": 30.0}, True),
        (math.inf, {"seconds": {"total": 5.0}, "state": "finished", "epochs": 29.0}, False),
        (math.inf, {"seconds": {"total": 5.0}, "state": "interrupted", "epochs": 30.0}, False),
        (math.inf, {}, False),  # the run was killed before it wrote a summary
        (60.0, {}, False),
    ],
)
def test_when_an_earlier_run_is_finished(limit: float, summary: dict[str, Any], finished: bool) -> None:
    model: Any = SimpleNamespace(info={"fit_seconds": 12.5})
    earlier = Earlier(model=model, folder=Path(), rows=[], summary=summary)
    assert earlier.is_finished(limit, 30) == finished
    assert earlier.seconds == (summary["seconds"]["total"] if summary else 12.5)


@pytest.mark.parametrize(
    ("arguments", "given", "limit"),
    [
        ({}, 60.0, 60.0),
        ({}, None, DEFAULT_SEARCH_SECONDS),  # a search would never end
        ({"tune_kwargs": {}}, None, DEFAULT_SEARCH_SECONDS),
        ({"tune_kwargs": {"num_trials": 3}}, None, None),
        ({"tune_kwargs": None}, None, None),
        ({"presets": "conv_lora_paper"}, None, None),
        ({"presets": "best_quality"}, None, DEFAULT_SEARCH_SECONDS),
        ({"hyperparameters": {"max_epochs": 5}}, None, None),  # exactly five epochs
        ({"hyperparameters": {"max_epochs": 5, "rank": [2, 4]}}, None, DEFAULT_SEARCH_SECONDS),
    ],
)
def test_default_time_limit(arguments: dict[str, Any], given: float | None, limit: float | None) -> None:
    assert _fit._time_limit(given, resolve(**arguments)) == limit


def test_only_a_better_score_replaces_an_earlier_runs_model() -> None:
    nan = math.nan
    cases = [(0.5, 0.4, True), (0.4, 0.5, False), (0.5, 0.5, False), (nan, 0.1, False), (0.1, nan, True)]
    assert [_better(new, old) for new, old, _ in cases] == [expected for *_, expected in cases]
    assert not _better(nan, nan)
