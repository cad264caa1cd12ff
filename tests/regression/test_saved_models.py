"""Models that earlier versions saved load in this one, with every check, and give the same masks.

Processors and versions of torch add up in other orders, which changes probabilities in their last
digits. So masks must be equal wherever the two most probable classes are further apart than TIE: where
they are not, rounding decides.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from semseg_automl import SemanticSegmentor
from semseg_automl.artifacts.schema import FORMAT_VERSION
from semseg_automl.core.errors import ChecksumError, ProbeError
from tests.small_model import reseal, version_of

MODELS = sorted(Path(__file__).parent.glob("format_*"))
TIE = 1e-4
ROUNDED = 1e-3
"""Largest difference from a probability that is stored as float16 (5e-4), with room for other rounding."""

each_model = pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)


def test_there_is_a_model_of_this_format() -> None:
    assert f"format_{FORMAT_VERSION}" in {folder.name for folder in MODELS}


@each_model
def test_it_gives_equal_masks(folder: Path) -> None:
    seg = SemanticSegmentor.load(folder / "model", verbosity=0)
    expected = np.array(Image.open(folder / "mask.png"))
    assert set(np.unique(expected)) == set(seg.class_values_)  # an answer of one class would prove little
    assert all((expected == value).mean() > 0.05 for value in seg.class_values_)

    found = seg.predict_proba(str(folder / "picture.png"))
    stored = np.load(folder / "probabilities.npy", allow_pickle=False).astype(np.float32)
    np.testing.assert_allclose(found, stored, rtol=0, atol=ROUNDED)
    second, first = np.sort(found, axis=0)[-2:]
    clear = first - second > TIE
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(seg.predict(str(folder / "picture.png"))[clear], expected[clear])


@each_model
def test_what_lies_beside_it_is_read_too(folder: Path) -> None:
    seg = SemanticSegmentor.load(folder / "model", verbosity=0)
    assert seg.best_score_ > 0 and seg.best_config_["adapter"] == "conv_lora"
    assert sorted(seg.leaderboard()["model"]) == ["default", "majority_class"]
    assert seg.fit_summary(show=False)["best_model"] == "default"


@each_model
def test_its_checksums_are_verified(folder: Path, tmp_path: Path) -> None:
    for name in json.loads((version_of(folder / "model") / "manifest.json").read_text())["files"]:
        copy = shutil.copytree(folder / "model", tmp_path / name)
        path = version_of(copy) / name
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(ChecksumError, match=name):
            SemanticSegmentor.load(copy, verbosity=0)


@each_model
def test_its_probe_is_run(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "model", tmp_path / "m")
    path = version_of(copy) / "probe.safetensors"
    probe = load_file(path)
    probe["logits"] += 0.05 * probe["logits"].abs().max() * torch.ones_like(probe["logits"])
    save_file(probe, path)
    reseal(copy)
    with pytest.raises(ProbeError):
        SemanticSegmentor.load(copy, verbosity=0)
