"""A run's state on disk after each validation, so that a run that was killed goes on from there.

One safetensors file, replaced in one step, so that a reader finds the old state or the new one; its
header holds the plain values as JSON. Nothing in it is executable. It holds, in float32, the trained
tensors, their average, the optimiser's two moments and the best model so far: five times the size of
what is trained (72 MB for mobile_sam with a binary head).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from semseg_automl.artifacts.layout import replace_file
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.core.reads import settled
from semseg_automl.training.job import ModelState, TrainJob, TrainResult
from semseg_automl.training.optim import optimizer_tensors
from semseg_automl.training.validate import Validation

if TYPE_CHECKING:
    from semseg_automl.training.callbacks import Coach
    from semseg_automl.training.module import SegmentationModule

_LOG = get_logger("training")
FORMAT = 1
LARGEST = 2**30
"""Bytes above which a state is not written (an encoder that is tuned whole): it would take too long."""
_HEADER = "checkpoint"
_PARTS = ("adapter", "head", "weights", "average", "optimizer", "noise")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run right after a validation.

    ``model`` is the best model so far, scored by ``best``; ``peak`` is the highest validation, which
    may be another's. ``weights`` are the trained tensors as they were, ``average`` their average after
    ``updates`` steps, ``optimizer`` the optimiser's tensors (``training.optim``), ``noise`` the states
    of the generators that the gates draw from. ``step`` counts optimiser steps; seconds are wall clock
    since the run's start, over all its parts.
    """

    config: RunConfig
    seed: int
    step: int
    seconds: float
    train_seconds: float
    val_seconds: float
    val_cost: float
    updates: int
    history: tuple[tuple[int, float, float], ...]
    best: Validation
    peak: Validation
    model: ModelState
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    noise: Mapping[str, Tensor]


def capture(coach: Coach, module: SegmentationModule, step: int, job: TrainJob) -> Checkpoint:
    """The run as it is now: rank 0, after a validation, the raw weights in place."""
    if coach.best is None or coach.best_state is None or coach.peak is None:
        raise RuntimeError("a checkpoint follows a validation")
    names = trained_names(module)
    average = dict(zip(names, module.average.average, strict=True))
    noise = {"cpu": torch.random.get_rng_state()}
    if module.device.type == "cuda":
        noise["cuda"] = torch.cuda.get_rng_state(module.device)
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    return Checkpoint(
        config=job.config,
        seed=job.seed,
        step=step,
        seconds=coach.pacer.seconds(),
        train_seconds=coach.train_seconds,
        val_seconds=coach.val_seconds,
        val_cost=coach.val_cost,
        updates=module.average.updates,
        history=tuple(coach.history),
        best=coach.best,
        peak=coach.peak,
        model=coach.best_state,
        weights=dict(zip(names, module.average.parameters, strict=True)),
        average=average,
        optimizer=optimizer_tensors(optimizer),
        noise=noise,
    )


class CheckpointFile:
    """Writes a job's state after each validation. A disk that is full is told once; training goes on."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self._told = False

    def __call__(self, coach: Coach, module: SegmentationModule, step: int) -> None:
        """Write the state of the run after ``step`` optimiser steps."""
        size = 5 * sum(p.numel() * p.element_size() for p in module.average.parameters)
        if size > LARGEST:
            if not self._told:
                _LOG.info(
                    "The run's state (%.1f GiB) is not kept: killed, it would start anew.", size / 2**30
                )
            self._told = True
            return
        try:
            write_checkpoint(capture(coach, module, step, self.job), Path(str(self.job.checkpoint)))
        except OSError as error:
            if not self._told:
                _LOG.warning("The run's state can't be kept (%s): killed, it would start anew.", error)
            self._told = True


def trained_names(module: SegmentationModule) -> list[str]:
    """Names of the trained tensors, in the order of ``Segmenter.trainable_parameters``."""
    return [name for name, p in module.segmenter.named_parameters() if p.requires_grad]


def write_checkpoint(state: Checkpoint, path: Path) -> None:
    """Write a checkpoint in place of the one that is there.

    Raises
    ------
    OSError
        The folder can't be written or the disk is full; the earlier file is untouched.
    """
    tensors: dict[str, Tensor] = {}
    groups = {"adapter": state.model.adapter, "head": state.model.head}
    groups |= {name: getattr(state, name) for name in _PARTS[2:]}
    for part, group in groups.items():
        for name, tensor in group.items():  # in memory of its own, as safetensors demands
            tensors[f"{part}/{name}"] = tensor.detach().to("cpu").contiguous().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save(tensors, metadata={_HEADER: _plain(state)}))


def _plain(state: Checkpoint) -> str:
    values: dict[str, Any] = {"format": FORMAT, "config": state.config.to_json()}
    for name in ("best", "peak"):
        values[name] = dataclasses.asdict(getattr(state, name))
    for field in dataclasses.fields(state):
        if field.name not in {"config", "best", "peak", "model", *_PARTS}:
            values[field.name] = getattr(state, field.name)
    return json.dumps(values, default=float)  # NaN stays Python's word: only this library reads it


def read_checkpoint(path: str | Path) -> Checkpoint | None:
    """Read a checkpoint; None where there is none.

    Raises
    ------
    ArtifactError
        The file is damaged or of another version.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[_HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        if values.pop("format") != FORMAT:
            raise ValueError("another version wrote it")
        return _assembled(values, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def result_at(state: Checkpoint, n_train: int, ending: str) -> TrainResult:
    """What a run had reached at its last validation, as the result of a run that ended there.

    ``ending`` is the result's ``state``. Peak memory is not known: NaN.
    """
    best = state.best
    return TrainResult(
        state=ending,
        score=best.score,
        threshold=best.threshold,
        metrics=best.metrics,
        model=state.model,
        steps=state.step,
        epochs=state.step * state.config.optim.batch_size / n_train,
        seconds=state.seconds,
        train_seconds=state.train_seconds,
        val_seconds=state.val_seconds,
        seconds_per_step=state.train_seconds / max(1, state.step),
        predict_seconds=best.seconds / max(1, best.pictures),
        peak_memory_mb=math.nan,
        n_trainable=sum(tensor.numel() for tensor in state.weights.values()),
        history=state.history,
        never_predicted=best.never_predicted,
        complete=best.complete,
        per_image=best.per_image,
    )


def spent_seconds(path: str | Path) -> float | None:
    """Seconds of training behind a checkpoint, from its header alone; None where there is none."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return float(json.loads(file.metadata()[_HEADER])["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"The state of a run in {path} can't be read: {error}. Delete the file to start that run anew."
    )


def _assembled(values: dict[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    model = ModelState(adapter=parts.pop("adapter"), head=parts.pop("head"))
    values["config"] = RunConfig.from_json(values["config"])
    values["history"] = tuple((int(step), at, score) for step, at, score in values["history"])
    for name in ("best", "peak"):
        found = values[name]
        lists = {key: tuple(found[key]) for key in ("never_predicted", "per_image")}
        values[name] = Validation(**{**found, **lists})
    return Checkpoint(model=model, **values, **dict[str, Any](parts))


def find_checkpoint(job: TrainJob) -> Checkpoint | None:
    """The state that a job's run has reached on disk; None where it starts from nothing.

    Gradient checkpointing may differ: it changes no tensor, and is turned on where memory has run out. So may
    what has no effect.

    Raises
    ------
    ConfigError
        The file holds the state of another network.
    """
    state = None if job.checkpoint is None else read_checkpoint(job.checkpoint)
    if state is None:
        return None
    both = settled(state.config), settled(job.config)
    old, new = (dict(vars(c.adapter)) | dict(vars(c.model)) for c in both)
    names = old.keys() - {"gradient_checkpointing"}
    changed = [f"{name} ({old[name]} -> {new[name]})" for name in sorted(names) if old[name] != new[name]]
    if changed:
        raise ConfigError(f"The run in {job.checkpoint} can't go on with another {', '.join(changed)}.")
    _LOG.info("Going on from step %d of this run.", state.step)
    return state
