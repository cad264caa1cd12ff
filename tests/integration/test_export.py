"""A fitted model's ONNX file predicts the same masks without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor
from semseg_automl.estimator._errors import NotFittedError
from tests.integration.quick import NO_SEARCH, ROOT, tiny

pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra [onnx]")
EXAMPLE = ROOT / "docs" / "examples" / "predict_onnx.py"
BLOCKED = """
import runpy, sys
sys.modules["torch"] = sys.modules["semseg_automl"] = None  # importing them is an error from here on
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def masks_without_torch(model: Path, pictures: list[str], folder: Path) -> list[np.ndarray]:
    """Run the example in a process that can't import torch."""
    command = [sys.executable, "-c", BLOCKED, str(EXAMPLE), str(model), str(folder), *pictures]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return [np.array(Image.open(folder / f"{Path(p).stem}.png")) for p in pictures]


def _pictures(folder: Path) -> list[str]:
    """Of several sizes and kinds: grey, RGB, RGBA, and one that is turned by its EXIF tag."""
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 4), dtype=np.uint8)
    pictures = {
        "rgb.png": Image.fromarray(noise[..., :3]),
        "grey.png": Image.fromarray(noise[:33, :, 0]),
        "alpha.png": Image.fromarray(noise[:, :40]),
        "turned.jpg": Image.fromarray(noise[:, :50, :3]),
    }
    for name, picture in pictures.items():
        exif = picture.getexif()
        exif[274] = 6 if name == "turned.jpg" else 1
        picture.save(folder / name, exif=exif)
    return [str(folder / name) for name in pictures]


@pytest.mark.parametrize("problem", ["binary", "multiclass"])
def test_the_example_predicts_the_same_masks(
    problem: str, request: pytest.FixtureRequest, mixed_sizes: pd.DataFrame, tmp_path: Path
) -> None:
    seg: SemanticSegmentor = request.getfixturevalue(problem)
    table = mixed_sizes.drop_duplicates("image").head(1)
    pictures = [*table["image"], *_pictures(tmp_path)]
    path = seg.export_onnx(tmp_path / "model.onnx")
    found = masks_without_torch(path, pictures, tmp_path / "masks")
    for want, mask in zip(seg.predict(pictures), found, strict=True):
        assert mask.shape == want.shape and mask.dtype == want.dtype
        assert (mask != want).mean() < 1e-3  # pixels on the edge of a decision


def test_sixteen_bits_and_colours_come_out_as_they_went_in(textures: pd.DataFrame, tmp_path: Path) -> None:
    deep, codes, rows = tmp_path / "deep", np.array([(0, 0, 0), (255, 0, 0), (0, 90, 255)], np.uint8), []
    deep.mkdir()
    for i, (image, label) in enumerate(zip(textures["image"][:6], textures["label"][:6], strict=True)):
        grey = np.asarray(Image.open(image).convert("L")).astype(np.uint16) * 17
        Image.fromarray(grey).save(deep / f"{i}.png")
        Image.fromarray(codes[np.asarray(Image.open(label))]).save(deep / f"{i}_mask.png")
        rows.append((str(deep / f"{i}.png"), str(deep / f"{i}_mask.png")))
    table = pd.DataFrame(rows, columns=["image", "label"])
    small = {"max_epochs": 1, "image_size": (64, 96), "adapter": "decoder_only"}
    seg = tiny(tmp_path / "model").fit(table, hyperparameters=small, hyperparameter_tune_kwargs=None)
    found = masks_without_torch(seg.export_onnx(tmp_path / "m.onnx"), list(table["image"]), tmp_path / "out")
    for want, mask in zip(seg.predict(table), found, strict=True):
        assert mask.shape == want.shape == (64, 80, 3)
        assert (mask != want).any(-1).mean() < 1e-3


def test_pictures_of_five_channels(textures: pd.DataFrame, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is in the extra [tiff]")
    rng, paths = np.random.default_rng(0), []
    contiguous = {"photometric": "minisblack", "planarconfig": "contig"}
    for i, image in enumerate(textures["image"][:6]):
        rgb = np.asarray(Image.open(image)).astype(np.uint16)
        further = rng.integers(0, 3000, (*rgb.shape[:2], 2), np.uint16)
        paths.append(str(tmp_path / f"{i}.tif"))
        tifffile.imwrite(paths[-1], np.concatenate([rgb * 11, further], axis=2), **contiguous)
    table = textures.head(6).assign(image=paths)
    seg = tiny(tmp_path / "model").fit(table, **NO_SEARCH)
    found = masks_without_torch(seg.export_onnx(tmp_path / "m.onnx"), paths, tmp_path / "out")
    for want, mask in zip(seg.predict(table), found, strict=True):
        assert mask.shape == want.shape == (64, 80)
        assert (mask != want).mean() < 1e-3


def test_the_example_is_short() -> None:
    assert sum(bool(line.strip()) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60


def test_an_unfitted_model_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        tiny().export_onnx(tmp_path / "model.onnx")


@pytest.mark.weights
def test_mobile_sam_is_exported(textures: pd.DataFrame, tmp_path: Path) -> None:
    small = {"max_epochs": 1, "image_size": 64, "num_experts": 2, "rank": 2}
    seg = SemanticSegmentor(backbone="mobile_sam", path=tmp_path / "model", verbosity=0)
    seg.fit(textures.head(4), hyperparameters=small, hyperparameter_tune_kwargs=None)
    path = seg.export_onnx(tmp_path / "model.onnx")
    pictures = list(textures["image"][:2])
    for want, mask in zip(
        seg.predict(pictures), masks_without_torch(path, pictures, tmp_path / "out"), strict=True
    ):
        assert (mask != want).mean() < 1e-3
