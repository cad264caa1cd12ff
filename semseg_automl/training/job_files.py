"""A training job and its result as files between processes: JSON and safetensors, nothing executable.

Both ends are this library in one version on one machine, so NaN and infinity stay Python's JSON
words. ``save``d models have a stricter format of their own (``artifacts``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.data.images import IntensityScaling
from semseg_automl.data.labels import LabelMap
from semseg_automl.data.sample_files import read_samples, write_samples
from semseg_automl.models.checkpoints import ResolvedWeights
from semseg_automl.training.job import ModelState, TrainJob, TrainResult

JOB, RESULT, EVENTS, STOP = "job.json", "result.json", "events.jsonl", "stop"
ERROR = "error-{}.json"
PRUNED, INTERRUPTED, URGENT = "pruned", "interrupted", "urgent"
"""What the launcher writes into STOP; after URGENT it waits only seconds (see ``Hooks.urgent``)."""
_WEIGHTS, _INIT, _MODEL = "weights.safetensors", "init.safetensors", "result.safetensors"
_OWN_FORM = ("config", "label_map", "train", "val", "weights", "scaling", "init")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker reads: the job, the ``time.time()`` at which it must have ended, the log level."""

    job: TrainJob
    deadline: float = math.inf
    log_level: int = 0


def write_order(order: Order, folder: Path) -> None:
    """Write an order into an existing folder.

    Raises
    ------
    ConfigError
        The job holds something that is no plain value (an augmentation that is a function).
    """
    job = order.job
    values: dict[str, Any] = {
        field.name: getattr(job, field.name)
        for field in dataclasses.fields(job)
        if field.name not in _OWN_FORM
    }
    values["config"] = job.config.to_json()
    values["label_map"] = job.label_map.to_json()
    for part in ("train", "val"):
        values[part] = write_samples(getattr(job, part), folder / f"{part}.bin")
    values["scaling"] = None if job.scaling is None else dataclasses.asdict(job.scaling)
    values["weights"] = None if job.weights is None else _put_weights(job.weights, folder)
    if job.init is not None:
        _put_state(job.init, folder / _INIT)
    text = _dumps({"job": values, "deadline": order.deadline, "log_level": order.log_level})
    replace_text(folder / JOB, text)


def read_order(folder: Path) -> Order:
    """Inverse of :func:`write_order`; in-memory pictures are mapped from their file, not copied."""
    stored = json.loads((folder / JOB).read_text(encoding="utf-8"))
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in stored["job"].items()
    }
    values["config"] = RunConfig.from_json(values["config"])
    values["label_map"] = LabelMap.from_json(values["label_map"])
    for part in ("train", "val"):
        values[part] = read_samples(values[part], folder / f"{part}.bin")
    if values["scaling"] is not None:
        values["scaling"] = IntensityScaling(**values["scaling"])
    if values["weights"] is not None:
        values["weights"] = _take_weights(values["weights"], folder)
    values["init"] = _take_state(folder / _INIT) if (folder / _INIT).exists() else None
    return Order(job=TrainJob(**values), deadline=stored["deadline"], log_level=stored["log_level"])


def write_result(result: TrainResult, folder: Path) -> None:
    """Write a result; its JSON file appears last and whole."""
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "model"}
    _put_state(result.model, folder / _MODEL)
    replace_text(folder / RESULT, _dumps(values))


def read_result(folder: Path) -> TrainResult:
    """Inverse of :func:`write_result`."""
    values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    values["history"] = tuple((int(step), at, score) for step, at, score in values["history"])
    values |= {name: tuple(values[name]) for name in ("never_predicted", "per_image")}
    return TrainResult(model=_take_state(folder / _MODEL), **values)


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def _dumps(values: Any) -> str:
    try:
        return json.dumps(values, default=_scalar)
    except TypeError as error:
        raise ConfigError(
            f"Training on several devices hands the job to other processes as JSON, and {error}. "
            "Use plain values (a named augmentation instead of a function), or one device."
        ) from error


def _scalar(value: Any) -> Any:
    """Python's form of a numpy or torch scalar; TypeError for anything else."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _put_weights(weights: ResolvedWeights, folder: Path) -> dict[str, Any]:
    if weights.tensors is not None:
        _save(dict(weights.tensors), folder / _WEIGHTS)
    path = None if weights.path is None else str(Path(weights.path).absolute())
    return {"name": weights.name, "source": weights.source, "path": path, "sha256": weights.sha256}


def _take_weights(stored: dict[str, Any], folder: Path) -> ResolvedWeights:
    held = folder / _WEIGHTS
    path = None if stored["path"] is None else Path(stored["path"])
    return ResolvedWeights(**{**stored, "path": path}, tensors=load_file(held) if held.exists() else None)


def _put_state(state: ModelState, path: Path) -> None:
    parts = {"adapter": state.adapter, "head": state.head}
    _save({f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}, path)


def _take_state(path: Path) -> ModelState:
    tensors = load_file(path)
    parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "head": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    return ModelState(**parts)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Every tensor in memory of its own, as safetensors demands."""
    save_file({name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}, path)
