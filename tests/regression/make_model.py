"""Make the saved model that every later version must load; run once for each format version.

    python -m tests.regression.make_model

A short fit of the test backbone on coloured shapes. Its tensors are stored as float16 to keep the
repository small; what is expected of it is computed after that, from the stored files.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.artifacts.schema import FORMAT_VERSION
from semseg_automl.estimator import _store
from semseg_automl.training.job import ModelState

FOLDER = Path(__file__).parent / f"format_{FORMAT_VERSION}"
HYPER = {
    "max_epochs": 60,
    "image_size": 80,
    "num_experts": 2,
    "rank": 4,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "decoder_learning_rate": 3e-3,
}


def main() -> None:
    """Write FOLDER: model/, picture.png (unseen) and what is expected: mask.png, probabilities.npy."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [shapes(seed) for seed in range(1, 17)]
        train = pd.DataFrame(pairs, columns=["image", "label"])
        seg = SemanticSegmentor(backbone="sam_tiny", path=Path(scratch) / "m", verbosity=1)
        seg.fit(train, hyperparameters=HYPER, hyperparameter_tune_kwargs=None, devices="cpu")
        trained = seg._model
        half = ModelState(adapter=_half(trained.state.adapter), head=_half(trained.state.head))
        _store.write(FOLDER / "model", dataclasses.replace(trained, state=half))
        _store.write_summary(FOLDER / "model", seg._rows, seg._summary)
    unseen, truth = shapes(0)
    Image.fromarray(unseen).save(FOLDER / "picture.png")
    torch.set_num_threads(1)
    loaded = SemanticSegmentor.load(FOLDER / "model", verbosity=1)
    picture = str(FOLDER / "picture.png")
    mask = loaded.predict(picture)
    if (found := (mask == truth).mean()) < 0.9:
        raise SystemExit(f"Only {found:.0%} of the pixels are right: equal masks would prove little.")
    Image.fromarray(mask).save(FOLDER / "mask.png")
    np.save(FOLDER / "probabilities.npy", loaded.predict_proba(picture).astype(np.float16))


def shapes(seed: int, height: int = 64, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture (H, W, 3) uint8 and its mask: 0 ground, 3 a reddish disc, 7 a bluish rectangle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(2, height // 3), rng.integers(width // 2, 2 * width // 3)
    mask[top : top + 30, left : left + 20] = 7
    mask[(y - rng.integers(20, 44)) ** 2 + (x - rng.integers(16, 24)) ** 2 < 200] = 3
    colours = {0: (110, 140, 90), 3: (190, 80, 70), 7: (70, 90, 190)}
    picture = sum((mask == value)[..., None] * np.array(colour) for value, colour in colours.items())
    return np.clip(picture + rng.normal(0, 25, picture.shape), 0, 255).astype(np.uint8), mask


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.half() for name, tensor in tensors.items()}


if __name__ == "__main__":
    main()
