"""A model that was saved and is loaded in a fresh process predicts the same bits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from semseg_automl.artifacts.probe import make_probe
from semseg_automl.artifacts.schema import Manifest
from semseg_automl.artifacts.write import write_model
from semseg_automl.core.config import RunConfig
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference.predict import Predictor
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.checkpoints import resolve_weights

LABELS = LabelMap(problem_type="multiclass", names=("a", "b", "c"), values=(0, 1, 2), ignore=None)
IN_A_FRESH_PROCESS = """
import sys
import numpy as np, torch
from semseg_automl.artifacts.probe import check_probe
from semseg_automl.artifacts.read import read_model
from semseg_automl.core.config import RunConfig
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference.predict import Predictor
from semseg_automl.models.build import build_segmenter
torch.set_num_threads(1)
stored = read_model(sys.argv[1])
config, labels = RunConfig.from_json(stored.manifest.config), LabelMap.from_json(stored.manifest.label_map)
segmenter = build_segmenter(config, labels.num_outputs, seed=99)
segmenter.load_trainable_state(stored.adapter, stored.head)
assert check_probe(segmenter, stored.probe) == 0.0
assert not {"lightning", "optuna", "sklearn"} & set(sys.modules)
found = Predictor(segmenter, labels, config.model.image_size).probabilities(np.load(sys.argv[2]))
np.save(sys.argv[3], found)
"""


def test_bit_equal(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = RunConfig().replace(backbone="sam_tiny", image_size=64)
        weights = resolve_weights("sam_tiny")
        segmenter = build_segmenter(config, LABELS.num_outputs, weights=weights, seed=3)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in segmenter.trainable_parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        backbone = {"name": weights.name, "source": weights.source, "sha256": weights.sha256}
        manifest = Manifest(label_map=LABELS.to_json(), config=config.to_json(), backbone=backbone)
        write_model(tmp_path / "model", manifest, *segmenter.trainable_state(), make_probe(segmenter))
        picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
        np.save(tmp_path / "picture.npy", picture)
        expected = Predictor(segmenter, LABELS, 64).probabilities(picture)
    finally:
        torch.set_num_threads(threads)
    assert expected.std() > 1e-3  # not a constant that anything would reproduce
    places = [str(tmp_path / name) for name in ("model", "picture.npy", "found.npy")]
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, *places], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)
