"""One training of one configuration on one data set, and many of them side by side.

A training ends by the clock, or after a number of epochs or steps. Where steps end it, the score does not
depend on the machine's speed or on what runs beside it, so that ``side_by_side`` may train several at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from benchmarks.quality.run import circumstances

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained and scored.

    ``seconds`` is a time limit, ``steps`` a number of steps; where both are None, ``max_epochs`` of the
    hyperparameters counts. Runs by steps are in float32 and read pictures in their own process. ``rows`` are
    the positions, in the training table with the validation table below it, of the pictures to train on, to
    validate on and to test on; None takes the set's own three tables. ``test``: whether the test pictures
    are scored, too.
    """

    set: str
    metric: str
    hyperparameters: dict[str, Any]
    seed: int = 0
    seconds: float | None = None
    steps: int | None = None
    test: bool = False
    rows: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = field(default=None, repr=False)
    backbone: str = "mobile_sam"


def execute(training: Training) -> dict[str, Any]:
    """Train and score, in this process."""
    from semseg_automl import SemanticSegmentor

    train, val, test = tables(training)
    with tempfile.TemporaryDirectory() as folder, exactly(training.steps):
        seg = SemanticSegmentor(
            backbone=training.backbone,
            path=Path(folder) / "model",
            random_state=training.seed,
            eval_metric=training.metric,
            verbosity=1,
        )
        started = time.perf_counter()
        seg.fit(
            train,
            tuning_data=val,
            time_limit=training.seconds,
            hyperparameters=training.hyperparameters,
            hyperparameter_tune_kwargs=None,
            num_workers=0 if training.steps is not None else "auto",
        )
        fitted = time.perf_counter() - started
        scores = {"test_score": None, "test_score_scales": None}
        if training.test:
            scores["test_score"] = float(seg.evaluate(test, [training.metric])[training.metric])
        if training.test and training.rows is not None:
            scores["test_score_scales"] = float(
                seg.evaluate(test, [training.metric], tta="flips_and_scales")[training.metric]
            )
        summary = seg.fit_summary(show=False)
        row = seg.leaderboard().set_index("model").loc[summary["best_model"]]
    return {
        "metric": training.metric,
        "backbone": training.backbone,
        "hyperparameters": training.hyperparameters,
        "validation_score": float(summary["score_val"]),
        **scores,
        "n_trainable": int(row["n_trainable"]),
        "seconds_per_step": float(row["seconds_per_step"]),
        "peak_memory_mb": float(row["peak_memory_mb"]),
        "steps": summary["steps"],
        "precision": summary["precision"],
        "fit_seconds": round(fitted, 1),
        "in_steps": round(summary["seconds"]["steps_and_validation"] / fitted, 3),
        **circumstances(),
    }


def tables(training: Training) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The three tables, with absolute paths."""
    folder = Path(os.environ["SEMSEG_AUTOML_DATA"]) / training.set
    train, val = read(folder / "train.csv"), read(folder / "val.csv")
    if training.rows is None:
        return train, val, read(folder / "test.csv")
    import pandas as pd

    both = pd.concat([train, val], ignore_index=True)
    first, second, third = (both.iloc[list(rows)].reset_index(drop=True) for rows in training.rows)
    return first, second, third


def read(path: Path) -> pd.DataFrame:
    """A table of pictures and masks."""
    import pandas as pd

    return pd.read_csv(path).map(lambda name: str(path.parent / name))


@contextlib.contextmanager
def exactly(steps: int | None) -> Iterator[None]:
    """Let plans be of so many steps, in float32, whatever the machine; None: as they are."""
    from semseg_automl.search import run

    made = run.make_plan

    def fixed(*given: Any) -> Any:
        return dataclasses.replace(made(*given), max_steps=steps, precision="32-true")

    run.make_plan = made if steps is None else fixed
    try:
        yield
    finally:
        run.make_plan = made


def keep(result: dict[str, Any], path: Path) -> None:
    """Write a result at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def told(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean, standard error of the mean and number, for a table; a dash for none."""
    if not values:
        return "-"
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{'+' if signed else ''}.3f}{error} ({len(values)})"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A training, where its result goes and what is kept beside it."""

    training: Training
    path: Path
    about: dict[str, Any]


def side_by_side(orders: Sequence[Order], processes: int, until: float) -> int:
    """Train in so many processes of one thread each; start none after ``until`` (``time.time``).

    Each process trains one after the other, so peak memory and seconds a step of these results mean little;
    they say how many processes there were. A training that fails is kept with its error.

    Returns
    -------
    int
        How many were not started.
    """
    late = 0
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _one_thread) as pool:
        tasks = [pool.submit(_fulfil, order, processes, until) for order in orders]
        for number, task in enumerate(as_completed(tasks), 1):
            words = task.result()
            late += words == "late"
            print(f"{number} of {len(orders)}: {words}", flush=True)
    return late


class Planned(Protocol):
    """A run of a benchmark: a dataclass whose fields are kept beside the result."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def path(self) -> Path:
        """Where its result lies."""

    def training(self) -> Training:
        """What is to be trained."""


def train_missing(runs: Sequence[Planned], processes: int, minutes: float) -> None:
    """Train what has no result yet, so many at once; start nothing after ``minutes``."""
    orders = [
        Order(training=run.training(), path=run.path, about=dataclasses.asdict(run))
        for run in runs
        if not run.path.exists()
    ]
    if orders:
        side_by_side(orders, processes, time.time() + 60 * minutes)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _fulfil(order: Order, processes: int, until: float) -> str:
    if time.time() > until:
        return "late"
    about = {**order.about, "processes": processes}
    try:
        result = execute(order.training)
    except Exception as error:  # a method that fails is a row of the table, too
        keep({**about, "error": f"{type(error).__name__}: {error}"}, order.path)
        return f"{order.path.stem}: {error}"
    keep({**about, **result}, order.path)
    return f"{order.path.parent.name}/{order.path.stem}: {result['fit_seconds']} s"
