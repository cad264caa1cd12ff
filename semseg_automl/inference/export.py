"""One ONNX file of a model's network, with what its use needs, compared with torch before it is kept."""

from __future__ import annotations

import copy
import json
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semseg_automl.core.config import ImageSize
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.core.optional import require
from semseg_automl.data.images import network_channels
from semseg_automl.data.preprocess import MEAN, STD, Size, plan_geometry, statistics
from semseg_automl.inference.predict import Predictor
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.base import AdapterLayer
from semseg_automl.peft.inject import merge_adapters

INPUT, OUTPUT = "images", "logits"
FORMAT, FORMAT_VERSION = "semseg_automl onnx", 1
TOLERANCE = 1e-4
"""Largest difference from torch, as a share of the largest logit, or of 1 where that is larger."""
ASPECTS = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.6))
"""Heights and widths of the three pictures of the comparison, as shares of the model's size."""
_LARGEST = 2**31 - 2**24
"""Bytes of weights that one protobuf file holds, less room for the graph."""
_OPSET = 18
_log = get_logger("inference")


def export_onnx(
    predictor: Predictor,
    path: str | os.PathLike[str],
    *,
    size: Size | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the network of ``predictor`` as one ONNX file and compare it with torch on three pictures.

    Input ``images`` (B, C, H, W) float32: RGB (C = 3), or the C > 3 channels of the model's pictures, 0..255,
    minus ``mean``, over ``std``, zeros right and bottom up to a multiple of ``multiple``. Output ``logits``
    (B, K, H/4, W/4) float32, K = 1 for binary problems. The rest of a prediction is in the file's metadata
    (:func:`metadata`). Adapters that can be merged are merged; the predictor's own network stays as it is.

    Parameters
    ----------
    predictor : what is exported.
    path : file to write; replaced in one step when the comparison has passed.
    size : (H, W), multiples of ``predictor.multiple``, to which the file is then bound, as if the model's
        ``image_size`` were this; None: height, width and batch are free.
    facts : further metadata, JSON-ready.

    Returns
    -------
    Path

    Raises
    ------
    ConfigError
        A package is missing, ``size`` is no size, or the weights pass the 2 GiB of an ONNX file.
    ArtifactError
        The file can't be written, or answers differently than torch; nothing is left behind then.
    """
    require("onnx", extra="onnx", purpose="export_onnx")
    require("onnxruntime", extra="onnx", purpose="export_onnx")
    target = Path(path).expanduser()
    image_size = predictor.image_size if size is None else checked_size(size, predictor.multiple)
    network = plain_network(predictor.segmenter)
    pictures = comparison_pictures(image_size, predictor.multiple, network_channels(predictor.scaling))
    part = target.with_name(f".exporting-{uuid.uuid4().hex}.onnx")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(network, part, pictures[0], free=size is None)
        _annotate(part, {**metadata(predictor, image_size), **(facts or {})})
        difference = largest_difference(network, part, pictures)
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"The ONNX file {target} can't be written: {error}. Name a file in a folder you may write to."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    _log.info("%s equals torch to %.1e of the largest logit.", target, difference)
    return target


def metadata(predictor: Predictor, image_size: ImageSize) -> dict[str, Any]:
    """What a prediction needs beside the network, JSON-ready: the ONNX file's metadata.

    ``format``, ``format_version``; ``image_size`` (long side, or [H, W]), ``multiple``, ``mean`` and ``std``
    (a number per channel), ``scaling`` (null, or ``low`` and ``high`` of 16-bit and float pictures: a number,
    or one per channel); ``problem_type``, ``classes``, ``values`` (raw values of masks), ``threshold``
    (binary; null otherwise).
    """
    labels, scaling = predictor.label_map, predictor.scaling
    channels = network_channels(scaling)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "image_size": image_size if isinstance(image_size, int) else list(image_size),
        "multiple": predictor.multiple,
        "mean": list(statistics(MEAN, channels)),
        "std": list(statistics(STD, channels)),
        "scaling": None if scaling is None else {"low": scaling.low, "high": scaling.high},
        "problem_type": labels.problem_type,
        "classes": list(labels.names),
        "values": labels.to_json()["values"],
        "threshold": predictor.threshold if labels.num_outputs == 1 else None,
    }


def plain_network(segmenter: torch.nn.Module) -> torch.nn.Module:
    """A frozen float32 copy on the CPU, its adapters merged where all of them can be.

    Raises
    ------
    ConfigError
        The weights pass what one ONNX file holds.
    """
    stored = sum(t.numel() * 4 for t in [*segmenter.parameters(), *segmenter.buffers()])
    if stored > _LARGEST:
        raise ConfigError(
            f"The network has {stored / 2**30:.1f} GiB of weights, and an ONNX file holds 2 GiB. Use a "
            "smaller backbone, such as mobile_sam or sam_vit_b."
        )
    network = copy.deepcopy(segmenter).to("cpu", torch.float32).requires_grad_(False).eval()
    if isinstance(network, Segmenter):
        layers = [m for m in network.encoder.modules() if isinstance(m, AdapterLayer)]
        if layers and not any(layer.no_merge for layer in layers):
            merge_adapters(network.encoder)
    return network


def checked_size(size: Any, multiple: int) -> Size:
    """``size`` as (H, W), or ConfigError."""
    whole = isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int) for n in size)
    if not whole or any(n < multiple or n % multiple for n in size):
        raise ConfigError(f"size={size!r} must be None or (H, W) in multiples of {multiple}, as (512, 512).")
    return size[0], size[1]


def comparison_pictures(image_size: ImageSize, multiple: int, channels: int = 3) -> list[Tensor]:
    """Three (1, C, H, W) inputs of the shapes that the model meets: smooth colours under noise."""
    box = (image_size, image_size) if isinstance(image_size, int) else image_size
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for height, width in ASPECTS:
        wanted = max(1, round(box[0] * height)), max(1, round(box[1] * width))
        shape = plan_geometry(wanted, image_size, multiple).padded
        coarse = torch.randn(1, channels, 6, 6, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")
        pictures.append(smooth + 0.3 * torch.randn(1, channels, *shape, generator=generator))
    return pictures


@torch.no_grad()
def largest_difference(network: torch.nn.Module, path: Path, pictures: Sequence[Tensor]) -> float:
    """Largest difference between the file under onnxruntime and ``network``, relative to max(1, |logits|).

    Raises
    ------
    ArtifactError
        It is over ``TOLERANCE``, or the file can't be run.
    """
    import onnxruntime

    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for picture in pictures:
            want = network(picture).numpy()
            found = session.run([OUTPUT], {INPUT: picture.numpy()})[0]
            gap = np.abs(found - want).max() / max(1.0, float(np.abs(want).max()))
            worst = max(worst, float(gap)) if np.isfinite(gap) else float("inf")
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise ArtifactError(f"The exported network doesn't run under onnxruntime: {error}") from error
    if worst > TOLERANCE:
        raise ArtifactError(
            f"The exported network answers differently than torch: by {worst:.1e} of the largest logit, "
            f"allowed is {TOLERANCE:.0e}. Nothing was written. This is a bug; please report it with the "
            "versions that `semseg-automl doctor` shows."
        )
    return worst


def _write(network: torch.nn.Module, path: Path, example: Tensor, *, free: bool) -> None:
    """Trace and write; the exporter that traces is the one that keeps free sizes through windows."""
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}, OUTPUT: {0: "batch", 2: "rows", 3: "columns"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes: the comparison tries three
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript", DeprecationWarning)
        try:
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=axes if free else {name: {0: "batch"} for name in axes},
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ConfigError(
                f"torch {torch.__version__} can't write this network as ONNX: {str(error).splitlines()[0]}. "
                "With the newest torch every adapter and head can be written, on mobile_sam, SAM's ViTs and "
                "timm's; please report what can't."
            ) from error


def _annotate(path: Path, facts: Mapping[str, Any]) -> None:
    """Check the file and store ``facts``, each as JSON under its name."""
    import onnx

    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    model.producer_name = "semseg_automl"
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    onnx.save(model, str(path))
