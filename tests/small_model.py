"""A saved model that costs no training: the test backbone with random adapter and head; and a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.labels import LabelMap
from semseg_automl.estimator import _store
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.checkpoints import ResolvedWeights
from semseg_automl.training.job import ModelState

CONFIG = RunConfig().replace(
    backbone="sam_tiny", adapter="conv_lora", routing="learned", rank=2, num_experts=2, image_size=64
)
LABELS = LabelMap(problem_type="multiclass", names=("ground", "tree", "roof"), values=(0, 3, 7), ignore=255)


def small_model(seed: int = 0, **changes: Any) -> _store.Trained:
    """Three classes, each of which covers a part of :func:`picture`; other seeds give other tensors."""
    weights = ResolvedWeights(name="sam_tiny", source="fixed seed", path=None, sha256="")
    network = build_segmenter(CONFIG, LABELS.num_outputs, weights=weights)
    generator = torch.Generator().manual_seed(seed)
    adapter, head = network.trainable_state()
    for tensor in (*adapter.values(), *head.values()):
        tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    parts: dict[str, Any] = {
        "state": ModelState(adapter=adapter, head=head),
        "config": CONFIG,
        "label_map": LABELS,
        "scaling": None,
        "weights": weights,
        "threshold": 0.5,
        "metrics": {"mean_iou": 0.5},
        "info": {
            "image": "image",
            "label": "label",
            "eval_metric": "mean_iou",
            "score_val": 0.5,
            "train_pictures": PictureSizes(median=(64, 64), longest=64).to_json(),
        },
    }
    return _store.Trained(**{**parts, **changes})


def save_small_model(folder: Path, seed: int = 0, **options: Any) -> Path:
    """Write :func:`small_model` with a summary beside it; returns the folder."""
    _store.write(folder, small_model(seed), **options)
    _store.write_summary(folder, [], {"best_model": "default", "plan": ["one model"]})
    return folder


def picture(size: int = 64) -> np.ndarray:
    """(H, W, 3) uint8: bands, a ramp and noise."""
    y, x = np.mgrid[:size, :size]
    base = np.stack([4 * x, 128 + 100 * np.sin(y / 3), 2 * (x + y)], axis=2)
    noise = np.random.default_rng(0).normal(0, 20, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def version_of(folder: Path) -> Path:
    """The folder of the current version."""
    return folder / json.loads((folder / "current.json").read_text())["version"]


def reseal(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda manifest: None) -> None:
    """Change the manifest, then make every size and checksum right again, as a forger would."""
    old = version_of(folder)
    values = json.loads((old / "manifest.json").read_text())
    for name in values["files"]:
        data = (old / name).read_bytes()
        values["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(values)
    data = json.dumps(values).encode()
    digest = hashlib.sha256(data).hexdigest()
    (old / "manifest.json").write_bytes(data)
    old.rename(folder / f"v-{digest[:16]}")
    pointer = json.loads((folder / "current.json").read_text())
    pointer |= {"version": f"v-{digest[:16]}", "manifest_sha256": digest}
    (folder / "current.json").write_text(json.dumps(pointer))
