"""What ``fit`` was asked for, checked and frozen: the estimator's arguments without pandas or strings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.search.space import Space


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The user's ``hyperparameter_tune_kwargs``.

    ``num_trials=None``: as many as fit; ``num_workers=None``: one process per GPU, on a CPU what a
    measurement says. ``max_memory`` (MB at its peak while training) and ``max_latency`` (seconds per
    predicted picture) are what a model may take, both as the leaderboard measures them.
    """

    num_trials: int | None = None
    sampler: Any = None
    pruner: Any = None
    num_workers: int | None = None
    max_memory: float | None = None
    max_latency: float | None = None


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Everything that decides a fit besides the data.

    ``config`` holds defaults, preset and fixed hyperparameters; ``given`` names the ones that the
    user or the preset fixed (the planner leaves them alone); ``spaces`` the ones that the user
    wants searched; ``tune=None`` means no search, ``auto_tune`` that the planner may decide.
    ``size_factor`` multiplies the picture size that the planner would choose; ``finish_share`` of
    a search's time continues its best trial. ``own_augment`` is the user's function or torchvision
    transform, which ``config.augment`` only names. ``folder`` is the model's; None: nothing is kept on disk.
    """

    config: RunConfig
    given: frozenset[str] = frozenset()
    spaces: Mapping[str, Space] = field(default_factory=dict)
    tune: TuneSettings | None = field(default_factory=TuneSettings)
    auto_tune: bool = True
    time_limit: float | None = None
    eval_metric: str = "iou"
    devices: int | str | list[int] = "auto"
    num_workers: int | str = "auto"
    seed: int = 0
    verbosity: int = 2
    preset: str = "medium_quality"
    size_factor: float = 1.0
    finish_share: float = 0.15
    storage: str | None = None
    own_augment: Callable[..., Any] | None = None
    folder: Path | None = None
    callbacks: tuple[Callable[..., None], ...] = ()
