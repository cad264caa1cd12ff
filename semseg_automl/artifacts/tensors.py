"""The tensors of one safetensors file, after its header has been compared with what is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from semseg_automl.artifacts.schema import parse_json
from semseg_automl.core.errors import TensorError

Shapes = Mapping[str, tuple[int, ...]]

HEADER_LIMIT = 16 * 2**20
_FLOATS = {"F16": 2, "BF16": 2, "F32": 4}


def largest_file(shapes: Shapes) -> int:
    """Bytes that a file with these tensors may have at most: float32 values, and the header."""
    return 4 * sum(math.prod(shape) for shape in shapes.values()) + HEADER_LIMIT


def read_tensors(data: bytes, path: Path, shapes: Shapes | None) -> dict[str, torch.Tensor]:
    """Tensors by name, as stored.

    Parameters
    ----------
    data : the bytes of a safetensors file.
    path : where they come from, for messages.
    shapes : the names and shapes that must be there, each of floats; None takes what is there.

    Raises
    ------
    TensorError
        No safetensors file, or tensors that are missing, unknown, or of another shape or type.
    """
    if shapes is not None:
        _check(_header(data, path), shapes, path)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise TensorError(f"{path} is not a safetensors file: {error}") from error


def _header(data: bytes, path: Path) -> dict[str, Any]:
    """The declared tensors; see https://huggingface.co/docs/safetensors for the format."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(HEADER_LIMIT, len(data) - 8):
        raise TensorError(f"{path} is not a safetensors file: its header is longer than it may be.")
    header = parse_json(data[8 : 8 + size], str(path))
    header.pop("__metadata__", None)
    return header


def _check(header: Mapping[str, Any], shapes: Shapes, path: Path) -> None:
    complaints = [f"missing: {name}" for name in shapes if name not in header]
    complaints += [f"unknown: {name}" for name in header if name not in shapes]
    for name, entry in header.items():
        kind, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        if kind not in _FLOATS:
            complaints.append(f"type of {name}: stored {kind!r}, needed one of {', '.join(_FLOATS)}")
        elif name in shapes and shape != list(shapes[name]):
            complaints.append(f"shape of {name}: stored {shape}, needed {list(shapes[name])}")
    if complaints:
        more = f"; and {len(complaints) - 6} more" if len(complaints) > 6 else ""
        shown = "; ".join(text if len(text) < 200 else f"{text[:200]}..." for text in complaints[:6])
        raise TensorError(f"{path} does not hold the tensors that its configuration needs: {shown}{more}.")
