"""The model card that lies beside a saved model, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from semseg_automl.artifacts.schema import Manifest

_INCLUDED = "The backbone's weights are included."
_NOT_INCLUDED = "The backbone's frozen weights are not included; loading finds them and checks their hash."
HEADING = "# Semantic segmentation model"
_CARD = (
    f"{HEADING}\n"
    + """
```python
from semseg_automl import SemanticSegmentor
masks = SemanticSegmentor.load("this/folder").predict(["picture.png"])
```

A {problem_type} model, {size:.1f} MiB: adapter and head tuned on top of
`{name}` ({source}, sha256 over tensors `{sha256}`). {needs}
{threshold}
## Classes
| index | name | value in masks |
|---|---|---|
{classes}

## Validation
| metric | value |
|---|---|
{metrics}

## Settings
| hyperparameter | value |
|---|---|
{settings}

## Limits
Measured on one validation split of the training table; pictures of another kind may do worse. SAM's
weights are published under Apache-2.0; what the training pictures allow is for their owner to say.

Written with {versions}. Format version {format_version}; nothing in this folder is executable.
"""
)


def model_card(manifest: Manifest) -> str:
    """Markdown: what the model does, how to use it, how good it was, what it is made of."""
    labels, backbone = manifest.label_map, manifest.backbone
    pairs = zip(labels.get("names", []), labels.get("values", []), strict=False)
    included = "backbone.safetensors" in manifest.files
    threshold = ""
    if manifest.threshold is not None:
        threshold = f"A pixel is foreground from probability {manifest.threshold:.4g}.\n"
    return _CARD.format(
        problem_type=labels.get("problem_type", "segmentation"),
        size=sum(entry.size for entry in manifest.files.values()) / 2**20,
        name=backbone["name"],
        source=backbone["source"],
        sha256=backbone["sha256"] or "none",
        needs=_INCLUDED if included else _NOT_INCLUDED,
        threshold=threshold,
        classes=_rows((i, name, value) for i, (name, value) in enumerate(pairs)),
        metrics=_rows((name, _shown(value)) for name, value in sorted(manifest.metrics.items())),
        settings=_rows(sorted(manifest.config.items())),
        versions=", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items())),
        format_version=manifest.format_version,
    )


def _rows(rows: Iterable[tuple[object, ...]]) -> str:
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows) or "| (none) |"


def _shown(value: float) -> str:
    return "not defined" if value is None or math.isnan(value) else f"{value:.4f}"


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
