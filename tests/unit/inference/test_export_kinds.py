"""Exports of timm's ViTs and of networks for more than three channels: as torch answers, at every size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.data.images import IntensityScaling
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference.export import export_onnx, largest_difference
from semseg_automl.inference.predict import Predictor
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.encoders.channels import extend_input
from semseg_automl.models.encoders.positions import bicubic_matrix, bicubic_table
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.timm_vit import TimmViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft import lst
from semseg_automl.peft.inject import inject
from semseg_automl.peft.registry import ADAPTERS

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra [onnx]")
THREE = LabelMap(problem_type="multiclass", names=("a", "b", "c"), values=(0, 1, 2))
SIZES = [(2, 96, 160), (1, 64, 224), (1, 64, 64), (3, 32, 64)]
VITS: dict[str, dict[str, Any]] = {
    "class and register tokens": {"class_token": True, "reg_tokens": 2, "init_values": 0.5},
    "positions of the picture alone": {"class_token": True, "no_embed_class": True, "pre_norm": True},
    "patches of 14": {"patch_size": 14, "class_token": False, "global_pool": "avg"},
    "no positions": {"pos_embed": "none", "class_token": True},
}


def _moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every parameter away from its start, so that no part is without effect."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.requires_grad_(False).eval()


def _timm(adapter: str, channels: int = 3, **settings: Any) -> torch.nn.Module:
    """Width 24 and two blocks, adapted."""
    side = 4 * settings.get("patch_size", 16)
    sizes: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    encoder = TimmViTEncoder(VisionTransformer(img_size=side, dynamic_img_size=True, **sizes, **settings))
    adapters = inject(encoder, encoder.sites(), AdapterConfig(adapter=adapter, rank=2, num_experts=2))
    extend_input(encoder, channels)
    head = SemanticHead(3, embed_dim=256, num_heads=4, mlp_dim=32)
    return _moved(Segmenter(encoder, head, adapters))


def _check(predictor: Predictor, path: Path, channels: int = 3) -> None:
    """The file against the unmerged network at sizes that it was not traced with, to 1e-4."""
    inputs = [torch.randn(b, channels, h, w, generator=torch.Generator().manual_seed(b)) for b, h, w in SIZES]
    assert largest_difference(predictor.segmenter, export_onnx(predictor, path), inputs) < 1e-4


@pytest.mark.parametrize("kind", VITS)
def test_timms_vits_are_exported_for_any_size(tmp_path: Path, kind: str) -> None:
    _check(Predictor(_timm("conv_lora", **VITS[kind]), THREE, 96), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_is_exported_on_timms_vits(
    tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lst, "VIT_TINY", lst.SideSize(dim=12, depth=2, heads=2))
    network = _timm(adapter, **VITS["class and register tokens"])
    _check(Predictor(network, THREE, 96), tmp_path / "model.onnx")


def _of_channels(adapter: str, channels: int, scaling: IntensityScaling | None = None) -> Predictor:
    config = RunConfig().replace(backbone="sam_tiny", num_experts=2, adapter=adapter)
    network = _moved(build_segmenter(config, 3, channels=channels))
    return Predictor(network, THREE, 96, scaling=scaling or IntensityScaling(0.0, 255.0, channels))


@pytest.mark.parametrize("channels", [4, 16])
def test_further_channels_are_in_the_file(tmp_path: Path, channels: int) -> None:
    low, high = tuple(float(k) for k in range(channels)), (9000.0,) * channels
    predictor = _of_channels("conv_lora", channels, IntensityScaling(low, high, channels))
    _check(predictor, tmp_path / "model.onnx", channels)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1] == channels
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["mean"] == pytest.approx([123.675, 116.28, 103.53] + [114.495] * (channels - 3))
    assert len(facts["std"]) == channels and facts["scaling"] == {"low": list(low), "high": list(high)}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_is_exported_with_further_channels(tmp_path: Path, adapter: str) -> None:
    _check(_of_channels(adapter, 6), tmp_path / "model.onnx", 6)


@pytest.mark.parametrize("patch", [16, 14])
def test_timms_vit_with_further_channels_is_exported(tmp_path: Path, patch: int) -> None:
    predictor = Predictor(
        _timm("lora", 5, patch_size=patch), THREE, 96, scaling=IntensityScaling(0.0, 255.0, 5)
    )
    _check(predictor, tmp_path / "model.onnx", 5)


def test_sams_vit_with_further_channels_is_exported(tmp_path: Path) -> None:
    config = SamViTConfig(dim=32, depth=2, heads=2, global_blocks=(1,), window=5, embed_dim=32, grid=8)
    encoder = SamViTEncoder(config)
    extend_input(encoder, 5)
    network = _moved(Segmenter(encoder, SemanticHead(3, embed_dim=32, num_heads=4, mlp_dim=32), []))
    predictor = Predictor(network, THREE, 96, scaling=IntensityScaling(0.0, 255.0, 5))
    _check(predictor, tmp_path / "model.onnx", 5)


@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 5), (8, 13), (64, 20), (7, 3)])
def test_bicubic_matrix_is_torchs_interpolation(old: int, new: int) -> None:
    x = torch.randn(1, 1, old, 3)
    want = torch.nn.functional.interpolate(x, size=(new, 3), mode="bicubic", antialias=True)
    torch.testing.assert_close(bicubic_matrix(old, new) @ x, want)


@pytest.mark.parametrize("size", [(8, 6), (5, 13), (20, 3)])
def test_bicubic_table_is_torchs_interpolation(size: tuple[int, int]) -> None:
    table = torch.randn(1, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    want = torch.nn.functional.interpolate(table.permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
    torch.testing.assert_close(bicubic_table(table, *size), want.permute(0, 2, 3, 1))
