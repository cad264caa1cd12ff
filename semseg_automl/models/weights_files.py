"""Reading weight files, and the hash that identifies weights whatever file they lie in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from semseg_automl.core.errors import WeightsError
from semseg_automl.models.weights_layout import is_ignored
from semseg_automl.models.weights_registry import BACKBONES, WeightSource

SUFFIXES = (".safetensors", ".pth", ".pt")


def tensor_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Canonical sha256 of a set of weights.

    Over the tensors sorted by name, leaving out those that are never loaded (the pre-training's
    classifier, index tables, BatchNorm counters; see ``weights_layout.is_ignored``). Each
    contributes one JSON line ``[name, [shape]]``, then its values rounded to float16, row-major,
    little-endian. Container, tensor order and storage precision (float32 or float16) therefore do
    not matter; a change below float16's rounding goes unseen.
    """
    digest = hashlib.sha256()
    for name in sorted(n for n in tensors if not is_ignored(n)):
        tensor = tensors[name].detach()
        digest.update(json.dumps([name, list(tensor.shape)]).encode() + b"\n")
        values = tensor.to("cpu", torch.float16).contiguous().numpy()
        digest.update(values.astype("<f2", copy=False).tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def published_file(digest: str) -> WeightSource | None:
    """The registered source whose published file has this sha256, if any."""
    sources = (s for spec in BACKBONES.values() for s in spec.sources if s.kind == "url")
    return next((s for s in sources if s.file_sha256 == digest), None)


def read_weights(
    path: Path, *, check_finite: bool = True
) -> tuple[dict[str, torch.Tensor], WeightSource | None]:
    """Read a weight file; nothing in it is executed.

    safetensors files are read as they are. ``.pth``/``.pt`` files are read only if they are,
    byte for byte, one of the published files (then with ``torch.load(weights_only=True)``).

    Returns
    -------
    tuple
        The tensors as stored, without those that are never loaded, and the registered source
        whose published file this is (None for safetensors).

    Raises
    ------
    WeightsError
        Unreadable, not a weight file, an unknown ``.pth``, or values that are not finite.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path} is no weight file: its name must end in {', '.join(SUFFIXES)}.")
    source = None
    try:
        if path.suffix.lower() == ".safetensors":
            tensors = load_file(path)
        else:
            source = published_file(file_sha256(path))
            if source is None:
                raise WeightsError(
                    f"{path} is none of the published files (its sha256 is not registered), and an "
                    "unknown .pth is not opened: it may hold code. If you trust it, convert it once: "
                    "safetensors.torch.save_file(torch.load('it.pth', weights_only=True, "
                    "map_location='cpu'), 'it.safetensors')."
                )
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} can't be read as weights: {error}") from error
    return _checked(tensors, path, check_finite), source


def _checked(tensors: object, path: Path, check_finite: bool) -> dict[str, torch.Tensor]:
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise WeightsError(f"{path} must hold a flat dict of tensors, as the published files do.")
    kept = {n: t for n, t in tensors.items() if not is_ignored(n)}
    for name, tensor in kept.items() if check_finite else ():
        # numpy rather than torch: one thread, no pool to wait for on a busy machine
        if not bool(np.isfinite(tensor.to(torch.float32).numpy()).all()):
            raise WeightsError(f"{path}: tensor {name} holds values that are not finite.")
    return kept
