"""From a stored manifest to the library's own objects, checked before anything is built from it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from semseg_automl.artifacts.layout import ADAPTER, BACKBONE, HEAD, PROBE
from semseg_automl.artifacts.probe import probe_shapes
from semseg_automl.artifacts.schema import Manifest
from semseg_automl.artifacts.tensors import Shapes
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, BackboneError, ConfigError, SemsegError
from semseg_automl.core.hardware import detect
from semseg_automl.data.augment import OWN
from semseg_automl.data.images import IntensityScaling, network_channels
from semseg_automl.data.labels import LabelMap
from semseg_automl.data.preprocess import MEAN, STD
from semseg_automl.estimator._rules import check_hyperparameter
from semseg_automl.models.build import stored_shapes
from semseg_automl.models.checkpoints import backbone_spec
from semseg_automl.models.weights_layout import expected_shapes

COPIES = 3
"""How often a stored model's tensors lie in memory at once while it is loaded: file, tensors, network."""

_Test = Callable[[Any], bool]
_INFO: dict[str, _Test] = {
    "image": lambda v: isinstance(v, str),
    "label": lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(x, str) for x in v)),
    "eval_metric": lambda v: isinstance(v, str),
    "tta": lambda v: isinstance(v, bool),
    "score_val": lambda v: v is None or _number(v),
    "fit_seconds": lambda v: _number(v),
}
"""Facts that are read back, and their form; others are for people."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a manifest says, as objects."""

    config: RunConfig
    label_map: LabelMap
    scaling: IntensityScaling | None


def settings(manifest: Manifest) -> Settings:
    """Build the objects that a manifest describes.

    Raises
    ------
    BackboneError
        A backbone that is not registered, or without the hash that says which weights were used.
    ArtifactError
        A hyperparameter, label map, scaling, normalisation or fact that can't be.
    """
    _check_backbone(manifest)
    try:
        info = manifest.info
        wrong = [name for name, test in _INFO.items() if name in info and not test(info[name])]
        if wrong:
            raise ArtifactError(f"info holds facts of the wrong form: {', '.join(wrong)}.")
        if (manifest.mean, manifest.std) != (MEAN, STD):
            raise ArtifactError(
                f"mean and std must be {MEAN} and {STD}, got {manifest.mean} and {manifest.std}."
            )
        config = RunConfig.from_json(manifest.config)
        for name, value in config.flat().items():
            if name != "augment" or not str(value).startswith(OWN):  # the name of a function that trained it
                check_hyperparameter(name, value)
        if config.model.backbone != manifest.backbone["name"]:
            raise ArtifactError(
                f"config has the backbone {config.model.backbone!r}, not {manifest.backbone['name']!r}."
            )
        label_map = LabelMap.from_json(manifest.label_map)
        if any(isinstance(v, int) and abs(v) >= 2**31 for v in (*label_map.values, label_map.ignore)):
            raise ArtifactError(f"label_map holds values that no mask can have: {label_map.values}.")
        scaling = None if manifest.scaling is None else IntensityScaling(**manifest.scaling)
        if network_channels(scaling) != manifest.channels:
            raise ArtifactError(f"scaling is not that of pictures of {manifest.channels} channels.")
    except (SemsegError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"The saved model's manifest can't be used: {error}") from error
    return Settings(config=config, label_map=label_map, scaling=scaling)


def expected_tensors(manifest: Manifest) -> Mapping[str, Shapes]:
    """The tensors that each file must hold, by file name, from the manifest alone.

    Raises
    ------
    ArtifactError
        The manifest can't be used, or describes a model that does not fit in this machine's memory.
    """
    found = settings(manifest)
    outputs, name = found.label_map.num_outputs, manifest.backbone["name"]
    try:
        adapter, head = stored_shapes(found.config, outputs, name, manifest.channels)
    except (SemsegError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"The saved model's manifest describes no model: {error}") from error
    shapes = {
        ADAPTER: adapter,
        HEAD: head,
        PROBE: probe_shapes(outputs, manifest.channels),
        BACKBONE: expected_shapes(backbone_spec(name)),
    }
    needed = COPIES * 4 * sum(math.prod(shape) for part in (adapter, head) for shape in part.values())
    available = detect().memory_available
    if available is not None and needed > available:
        raise ArtifactError(
            f"The saved model takes about {needed / 2**30:.1f} GiB to load, {available / 2**30:.1f} GiB of "
            "memory are free. Load it on a machine with more memory."
        )
    return shapes


def _check_backbone(manifest: Manifest) -> None:
    name, digest = manifest.backbone["name"], manifest.backbone["sha256"]
    try:
        seeded = backbone_spec(name).family == "sam_tiny"
    except ConfigError as error:
        raise BackboneError(
            f"The saved model needs a backbone that this version does not have: {error}"
        ) from error
    if digest != "" if seeded else not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BackboneError(f"The saved model has no valid sha256 of its backbone {name!r}: {digest!r}.")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
