"""What every engine must keep to: inherit from EngineContract and implement ``make``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import DataError
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.engines.base import Engine
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.facts import fingerprint
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.training.job import TrainJob

SMALL = {"image_size": 64, "num_experts": 2, "max_epochs": 1, "backbone": "sam_tiny"}
Run = Callable[..., tuple[Outcome, list[str]]]


class EngineContract:
    """One model, a search, the deadline, interruption, and errors, on the test backbone."""

    def make(self) -> Engine:
        """The engine under test."""
        raise NotImplementedError  # abstract: each test class defines it

    @pytest.fixture
    def run(self, textures: pd.DataFrame, tmp_path: Path) -> Run:
        """``run(limit=None, stop=None, trials=None, job fields...)`` -> outcome, names of the kept models."""
        samples = check_table(textures, need_label=True)
        scan = scan_masks(samples.masks or ())
        label_map = infer_label_map(scan)
        config = RunConfig().replace(**SMALL)
        job = TrainJob(
            config=config,
            label_map=label_map,
            train=samples.subset(range(8)),
            val=samples.subset(range(8, 12)),
            weights=resolve_weights("sam_tiny"),
            eval_metric="mean_iou",
        )

        def run(
            limit: float | None = None,
            stop: Interrupt | None = None,
            trials: int | None = None,
            given: tuple[str, ...] = tuple(SMALL),
            progress: Callable[[Any], None] = lambda _event: None,
            **changes: Any,
        ) -> tuple[Outcome, list[str]]:
            kept: list[str] = []
            outcome = self.make().run(
                FitRequest(
                    config=config,
                    given=frozenset(given),
                    tune=None if trials is None else TuneSettings(num_trials=trials),
                    folder=tmp_path,
                ),
                replace(job, **changes),
                fingerprint(job.train, job.val, label_map, scan),
                Budget(limit),
                stop or Interrupt(),
                on_best=lambda o: kept.append(o.best_name),
                progress=progress,
            )
            return outcome, kept

        return run

    def test_one_model(self, run: Run) -> None:
        events: list[Any] = []
        outcome, kept = run(progress=events.append)
        assert kept == ["default"] and outcome.best is not None and math.isfinite(outcome.best.score)
        assert outcome.best.steps == 2 and [r.state for r in outcome.rows] == ["finished"]
        assert events and {"model", "step", "score", "loss", "time_left"} <= set(events[-1])

    def test_a_search(self, run: Run) -> None:
        outcome, kept = run(trials=3)
        assert [r.model for r in outcome.rows] == ["default", "trial_1", "trial_2"]
        best = max(outcome.rows, key=lambda r: r.score_val)
        assert outcome.best is not None and outcome.best.score == best.score_val
        assert kept[0] == "default" and kept[-1] == outcome.best_name

    def test_the_deadline(self, run: Run) -> None:
        started = time.monotonic()
        outcome, _ = run(limit=3.0, given=("image_size",))
        assert time.monotonic() - started <= 1.05 * 3.0 + 5.0
        assert outcome.best is not None and outcome.best.state == "time"

    def test_an_interruption_keeps_the_best_so_far(self, run: Run) -> None:
        stop = Interrupt()
        stop.requested = True
        outcome, kept = run(stop=stop)
        assert outcome.best is not None and outcome.best.state == "interrupted" and kept == ["default"]

    def test_wrong_data_is_raised(self, run: Run, textures: pd.DataFrame, tmp_path: Path) -> None:
        """A picture that vanished after the table was checked."""
        samples = check_table(textures, need_label=True)
        gone = replace(samples, images=(str(tmp_path / "gone.png"), *samples.images[1:]))
        with pytest.raises(DataError, match=r"gone\.png"):
            run(train=gone)
