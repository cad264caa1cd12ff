"""What is written down is what the events told; a broken logger ends nothing."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.results import ModelRow
from semseg_automl.training.loggers import FitLog, check_loggers


class Recorder(Logger):
    """Keeps every call."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.broken = broken

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.broken:
            raise ConnectionError("no network")
        self.calls.append(("metrics", metrics, step))

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self.calls.append(("hyperparameters", params))

    def finalize(self, status: str) -> None:
        self.calls.append(("end", status))


def event(step: int, validated: float = math.nan, model: str = "default") -> dict[str, Any]:
    return {"model": model, "step": step, "loss": step / 10, "score": 0.9, "validated": validated}


ROWS = [
    ModelRow(model="default", score_val=0.5, state="time", config={"rank": 8, "scales": None}, steps=20),
    ModelRow(model="majority_class", score_val=0.1, state="baseline"),
]


def test_a_logger_gets_losses_scores_and_hyperparameters() -> None:
    recorder = Recorder()
    log = FitLog([recorder], Path("unused"))
    for step in range(1, 21):
        log.progress(event(step, 0.4 if step == 7 else math.nan))
    log.progress(event(1, model="trial_1"))
    log.close(ROWS)
    assert recorder.calls == [
        ("metrics", {"default/loss": 0.1}, 1),
        ("metrics", {"default/score": 0.4}, 7),
        ("metrics", {"default/loss": 1.0}, 10),
        ("metrics", {"default/loss": 2.0}, 20),
        ("metrics", {"trial_1/loss": 0.1}, 1),
        ("hyperparameters", {"default/rank": 8}),
        ("metrics", {"default/final_score": 0.5}, 20),
        ("end", "success"),
    ]


def test_csv_is_a_file_per_model_and_never_overwrites(tmp_path: Path) -> None:
    for _ in range(2):
        log = FitLog(["csv"], tmp_path)
        log.progress(event(1))
        log.progress(event(5, 0.4))
        log.close(ROWS)
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["default", "default_2"]
    with open(tmp_path / "logs" / "default" / "metrics.csv", encoding="utf-8") as file:
        rows = {row["step"]: row for row in csv.DictReader(file)}
    assert float(rows["1"]["loss"]) == 0.1 and float(rows["5"]["score"]) == 0.4
    assert float(rows["20"]["final_score"]) == 0.5
    assert "rank: 8" in (tmp_path / "logs" / "default" / "hparams.yaml").read_text(encoding="utf-8")


def test_a_logger_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    broken, fine = Recorder(broken=True), Recorder()
    log = FitLog([broken, fine], Path("unused"))
    with caplog.at_level(logging.WARNING):
        log.progress(event(1))
        log.progress(event(10))
        log.close(ROWS)
    assert caplog.text.count("no network") == 1
    assert broken.calls == [] and len(fine.calls) == 5


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    log = FitLog(["csv"], tmp_path)
    log.progress(event(1))
    log.close(ROWS)


def test_what_loggers_may_be(tmp_path: Path) -> None:
    one = CSVLogger(tmp_path)
    assert check_loggers(None) == () and check_loggers("csv") == ("csv",)
    assert check_loggers(["csv", one]) == ("csv", one) and check_loggers(one) == (one,)
    for wrong in ("tensorboard", [one, 3], True):
        with pytest.raises(ConfigError, match="loggers must be 'csv'"):
            check_loggers(wrong)
