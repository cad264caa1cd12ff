"""What the estimator adds to an exported network: how its masks are shown and predicted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semseg_automl import __version__
from semseg_automl.estimator.colours import class_colours
from semseg_automl.inference.export import export_onnx

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor


def export_model(seg: SemanticSegmentor, path: str | os.PathLike[str], size: Any) -> Path:
    """See ``SemanticSegmentor.export_onnx``."""
    facts = {
        "palette": class_colours(seg.n_classes_).tolist(),
        "tta": bool(seg._model.info.get("tta", False)),
        "backbone": {"name": seg._model.weights.name, "sha256": seg._model.weights.sha256},
        "adapter": seg._model.config.adapter.adapter,
        "semseg_automl": __version__,
    }
    return export_onnx(seg._get_predictor(), path, size=size, facts=facts)
