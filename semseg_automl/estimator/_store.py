"""Folders of models: where a fit writes, what it writes, and how a model comes back."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from semseg_automl.artifacts.files import JSON_LIMIT, no_unpickling, read_regular
from semseg_automl.artifacts.layout import folder_of, holds_model, replace_file
from semseg_automl.artifacts.probe import check_probe, make_probe
from semseg_automl.artifacts.read import StoredModel, read_model
from semseg_automl.artifacts.schema import Manifest
from semseg_automl.artifacts.write import write_model
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, BackboneError, WeightsError
from semseg_automl.core.log import get_logger
from semseg_automl.core.results import ModelRow
from semseg_automl.data.images import IntensityScaling, network_channels
from semseg_automl.data.labels import LabelMap
from semseg_automl.estimator._manifest import expected_tensors, settings
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.checkpoints import ResolvedWeights, resolve_weights
from semseg_automl.models.devices import out_of_memory
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.search.run_folder import RunFolder
from semseg_automl.training.job import ModelState, TrainResult

_LOG = get_logger("estimator")
SUMMARY = "fit_summary.json"
DEFAULT_ROOT = "SemsegModels"


def choose_folder(path: str | os.PathLike[str] | None, *, resume: bool, is_clone: bool) -> Path:
    """The folder that a fit writes into, created and writable.

    None: a new time-stamped folder under ``./SemsegModels``. A clone (cross-validation) takes the
    first free subfolder ``fit_N`` of ``path``, so that folds never overwrite each other.

    Raises
    ------
    ArtifactError
        The folder holds a model and ``resume`` is False, is a file, or can't be written.
    """
    folder = folder_of(DEFAULT_ROOT if path is None else path)
    fresh = path is None or is_clone
    if not fresh and not resume and (holds_model(folder) or (folder / SUMMARY).exists() or cut_short(folder)):
        what = "a model" if holds_model(folder) else "a fit that was cut short"
        raise ArtifactError(
            f"path={str(folder)!r} already holds {what}. Choose another folder, delete it, or pass "
            "resume=True to go on from it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            names = _clone_names() if path is not None else _stamped_names()
            folder = _create_first(folder / name for name in names)
        scratch = folder / f".write-test-{os.getpid()}"
        scratch.write_bytes(b"")
        scratch.unlink()
    except OSError as error:
        raise ArtifactError(
            f"path={str(folder)!r} can't be written: {error}. Pass path= with a folder you may write to."
        ) from error
    return folder


def cut_short(folder: Path) -> bool:
    """Whether a fit into this folder was killed after it had planned."""
    return RunFolder(folder).is_open


def _clone_names() -> Iterable[str]:
    return (f"fit_{n}" for n in itertools.count(1))


def _stamped_names() -> Iterable[str]:
    stamp = time.strftime("%Y%m%d_%H%M%S")
    return itertools.chain([stamp], (f"{stamp}_{n}" for n in itertools.count(2)))


def _create_first(candidates: Iterable[Path]) -> Path:
    """Create the first folder that isn't there; processes that fit side by side never share one."""
    for folder in candidates:
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError("no free name")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model with everything that its use needs."""

    state: ModelState
    config: RunConfig
    label_map: LabelMap
    scaling: IntensityScaling | None
    weights: ResolvedWeights
    threshold: float
    metrics: Mapping[str, float]
    info: Mapping[str, Any]

    @classmethod
    def of(cls, result: TrainResult, **parts: Any) -> Trained:
        """From a training result and the facts around it."""
        return cls(state=result.model, threshold=result.threshold, metrics=result.metrics, **parts)

    @classmethod
    def of_stored(cls, stored: StoredModel, weights_file: Path | None = None) -> Trained:
        """From a model as read; finds the backbone's weights (see :func:`read`), or raises BackboneError."""
        manifest = stored.manifest
        found = settings(manifest)
        return cls(
            state=ModelState(adapter=stored.adapter, head=stored.head),
            config=found.config,
            label_map=found.label_map,
            scaling=found.scaling,
            weights=_backbone_of(stored, weights_file),
            threshold=0.5 if manifest.threshold is None else manifest.threshold,
            metrics=manifest.metrics,
            info=manifest.info,
        )

    @property
    def score(self) -> float:
        """The eval metric on the validation pictures (greater is better); NaN where undefined."""
        value = self.info.get("score_val")
        return math.nan if value is None else float(value)

    def segmenter(self) -> Segmenter:
        """Build the network and load the trained tensors, in evaluation mode."""
        segmenter = build_segmenter(
            self.config,
            self.label_map.num_outputs,
            weights=self.weights,
            trained=True,
            channels=network_channels(self.scaling),
        )
        segmenter.load_trainable_state(dict(self.state.adapter), dict(self.state.head))
        return segmenter.eval()


def _backbone_of(stored: StoredModel, file: Path | None = None) -> ResolvedWeights:
    """The weights that came with a model, or those that its manifest names, in ``file`` or elsewhere."""
    name, digest = stored.manifest.backbone["name"], stored.manifest.backbone["sha256"]
    if file is not None and file.is_file() and stored.backbone is None:
        with contextlib.suppress(WeightsError):  # no longer what it was: looked for as usual
            return resolve_weights(file, sha256=digest)
    try:
        if stored.backbone is None or not digest:
            return resolve_weights(name, sha256=digest or None)
        weights = ResolvedWeights.in_memory(name, stored.backbone)
    except WeightsError as error:
        raise BackboneError(f"The saved model's backbone can't be used. {error}") from error
    if weights.sha256 != digest:
        raise BackboneError(
            f"The saved model came with other weights of {name!r} (sha256 over tensors {weights.sha256}) "
            f"than it was trained on ({digest})."
        )
    return weights


def write(
    folder: Path, model: Trained, *, segmenter: Segmenter | None = None, include_backbone: bool = False
) -> None:
    """Write a model into ``folder``; the folder's earlier model stays until the new one is complete.

    A model that came with its backbone goes with it: the place it came from may be ``folder``.
    """
    binary = model.label_map.problem_type == "binary"
    manifest = Manifest(
        label_map=model.label_map.to_json(),
        config=model.config.to_json(),
        scaling=None if model.scaling is None else vars(model.scaling).copy(),
        backbone={"name": model.weights.name, "source": model.weights.source, "sha256": model.weights.sha256},
        channels=network_channels(model.scaling),
        threshold=model.threshold if binary else None,
        metrics=model.metrics,
        info=model.info,
    )
    probe = _probe(segmenter, model)
    came_with_it = model.weights.tensors is not None
    backbone = model.weights.load() if include_backbone or came_with_it else None
    write_model(folder, manifest, model.state.adapter, model.state.head, probe, backbone=backbone)


def _probe(segmenter: Segmenter | None, model: Trained) -> dict[str, torch.Tensor] | None:
    """What loading compares with; None where memory is short (a model without it is better than none)."""
    try:
        return make_probe(segmenter or model.segmenter())
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        _LOG.warning("Out of memory while storing: the model is kept without the output that loading checks.")
        return None


def read(folder: str | os.PathLike[str], *, weights_file: Path | None = None) -> tuple[Trained, Segmenter]:
    """Read a model, build its network and compare its output with the stored probe.

    ``weights_file`` is tried first for a backbone that is not stored with the model.

    Raises
    ------
    ArtifactError
        The folder holds no model, or one that was changed or does not compute what it computed; see
        its subclasses in ``core.errors``.
    BackboneError
        The backbone that the model was trained on can't be found (a WeightsError too).
    """
    with no_unpickling():
        stored = read_model(folder, expected_tensors)
        trained = Trained.of_stored(stored, weights_file)
        segmenter = trained.segmenter()
        if stored.probe is not None:
            check_probe(segmenter, stored.probe)
    return trained, segmenter


def pack(model: Trained) -> tuple[dict[str, bytes], Path | None]:
    """A saved model as bytes by file name, and where its backbone lies; for :func:`unpack`.

    A backbone that is held in memory (the model came with it) is among the files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, model)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, model.weights.path


def unpack(files: Mapping[str, bytes], weights_file: Path | None) -> Trained:
    """The model that :func:`pack` took, after every check of :func:`read`."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return read(scratch, weights_file=weights_file)[0]


def read_trained(folder: str | os.PathLike[str]) -> Trained:
    """Read a model as :func:`read` does, without building its network."""
    return Trained.of_stored(read_model(folder, expected_tensors))


def write_summary(folder: Path, rows: Sequence[ModelRow], summary: Mapping[str, Any]) -> None:
    """Keep the leaderboard and the summary of a fit beside its model."""
    content = {"rows": [row.to_json() for row in rows], "summary": dict(summary)}
    text = json.dumps(content, indent=2, sort_keys=True, default=str)
    try:
        replace_file(folder / SUMMARY, (text + "\n").encode())
    except OSError as error:
        raise ArtifactError(f"{folder / SUMMARY} can't be written: {error}") from error


def read_summary(folder: str | os.PathLike[str]) -> tuple[list[ModelRow], dict[str, Any]]:
    """The leaderboard rows and summary stored beside a model; empty where there are none."""
    path = folder_of(folder) / SUMMARY
    if not os.path.lexists(path):
        return [], {}
    data = read_regular(path, JSON_LIMIT)
    try:
        content = json.loads(data.decode())  # NaN is a value here
        rows, summary = [ModelRow.from_json(row) for row in content["rows"]], dict(content["summary"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error
    return rows, summary


def initial_state(
    folder: str | os.PathLike[str], label_map: LabelMap, config: RunConfig, backbone: str, channels: int
) -> tuple[ModelState, RunConfig]:
    """A saved model's tensors as the start of a new training, and the configuration they need.

    Adapter and head shapes are the saved model's; classes are matched by name, new ones start
    from the backbone's tokens (see ``Segmenter.map_head_state``), those that are not in ``label_map``
    are dropped, with a warning.
    """
    trained = read_trained(folder)
    if trained.weights.name != backbone:
        raise ArtifactError(
            f"init_from={str(folder)!r} was trained on the backbone {trained.weights.name!r}, not "
            f"{backbone!r}. Pass the same backbone."
        )
    its_channels = network_channels(trained.scaling)
    if its_channels != channels:
        raise ArtifactError(
            f"init_from={str(folder)!r} takes pictures of {its_channels} channels, these have {channels}."
        )
    structural = {
        **vars(trained.config.adapter),
        "head": trained.config.model.head,
        "num_queries": trained.config.model.num_queries,
    }
    config = config.replace(**structural)
    old, new = trained.label_map, label_map
    if old.problem_type != new.problem_type:
        raise ArtifactError(
            f"init_from={str(folder)!r} is a {old.problem_type} model, the new table is {new.problem_type}."
        )
    head = dict(trained.state.head)
    lost = [name for name in old.names if name not in new.names and old.num_outputs > 1]
    if lost and len(lost) == old.n_classes:
        raise ArtifactError(
            f"init_from={str(folder)!r}: none of its classes {', '.join(old.names)} is among the new table's "
            f"{', '.join(new.names)}. Name them alike with classes=, or start without init_from."
        )
    if lost:
        _LOG.warning("The saved model's classes %s are none of the new ones: dropped.", ", ".join(lost))
    if old.num_outputs > 1 and (old.names != new.names):
        source = [old.names.index(name) if name in old.names else -1 for name in new.names]
        fresh = build_segmenter(config, new.num_outputs, weights=trained.weights, trained=True)
        head = fresh.map_head_state(head, source)
    return ModelState(adapter=_floats(trained.state.adapter), head=_floats(head)), config


def _floats(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
