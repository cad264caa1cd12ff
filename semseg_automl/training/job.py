"""What a training run is given and what it answers: frozen dataclasses, no behaviour."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from semseg_automl.core.config import RunConfig
from semseg_automl.data.frame import Samples
from semseg_automl.data.images import IntensityScaling
from semseg_automl.data.labels import LabelMap
from semseg_automl.models.checkpoints import ResolvedWeights


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """The trained part of a segmenter: adapter tensors and head tensors, on the CPU."""

    adapter: Mapping[str, Tensor]
    head: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training run.

    ``precision`` is Lightning's name ("32-true", "bf16-mixed"). ``max_steps`` counts optimiser
    steps; None means ``config.optim.max_epochs`` epochs. ``eval_metric`` is a name of
    ``metrics.registry``. ``init`` starts from trained tensors instead of the backbone's. ``tta``:
    validate as prediction will be, averaged with the mirrored picture. ``feature_cache``: folder of
    the frozen features that jobs share (``training.feature_cache``); None computes them every time.
    ``checkpoint``: a file that the run's state is written to after each validation; a run that finds
    one there goes on from it.
    ``own_augment``: the user's function or torchvision transform, in place of ``config.augment``.
    ``decay``: share of the run, at its end, over which the schedule "wsd" falls to 0; None: its own.
    ``val_seconds``: what a validation took in another run on these pictures; 0: not known.
    """

    config: RunConfig
    label_map: LabelMap
    train: Samples
    val: Samples
    weights: ResolvedWeights | None
    eval_metric: str
    scaling: IntensityScaling | None = None
    precision: str = "32-true"
    accelerator: str = "cpu"
    device_ids: tuple[int, ...] = (0,)
    num_workers: int = 0
    seed: int = 0
    max_steps: int | None = None
    init: ModelState | None = None
    micro_batch_size: int | None = None
    class_weights: tuple[float, ...] | None = None
    tta: bool = False
    feature_cache: str | None = None
    checkpoint: str | None = None
    decay: float | None = None
    own_augment: Callable[..., Any] | None = None
    val_seconds: float = 0.0


def _never(_step: int, _score: float) -> bool:
    return False


def _silent(_event: Mapping[str, float]) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """How the caller steers a run: plain callables, so that training knows no search.

    ``remaining()`` seconds left for this run including its last validation (inf: no limit), ``until()``
    those after which a validation is cut short (None: the same; a run that is one of several may be late);
    ``report(step, score)`` returns True to stop it (pruning); ``stop_requested()`` True after
    Ctrl-C or SIGTERM; ``urgent()`` True if that must take no longer than it has to (no validation
    where one was made already, else of one picture); ``progress(event)`` receives step, fraction,
    loss, score (of the best weights so far), seconds left and, after a step that was validated, that
    score as ``validated`` (else NaN).
    """

    remaining: Callable[[], float] = lambda: math.inf
    until: Callable[[], float] | None = None
    report: Callable[[int, float], bool] = _never
    stop_requested: Callable[[], bool] = lambda: False
    urgent: Callable[[], bool] = lambda: False
    progress: Callable[[Mapping[str, float]], None] = _silent


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run ended with.

    ``state``: "finished", "time", "pruned", "interrupted" or "nan". ``score`` is the eval metric on
    the validation pictures (greater is better), ``threshold`` the binary decision threshold chosen
    there; ``complete`` is False where the clock let only some of the pictures be scored. ``history``
    holds (step, seconds since start, score), ``per_image`` each validation picture's own score. Seconds
    are wall clock.
    """

    state: str
    score: float
    threshold: float
    metrics: Mapping[str, float]
    model: ModelState
    steps: int
    epochs: float
    seconds: float
    train_seconds: float
    val_seconds: float
    seconds_per_step: float
    predict_seconds: float
    peak_memory_mb: float
    n_trainable: int
    history: tuple[tuple[int, float, float], ...] = field(default=())
    never_predicted: tuple[int, ...] = ()
    complete: bool = True
    per_image: tuple[float, ...] = ()
