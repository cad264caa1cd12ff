"""An ONNX file answers as the network does, at every size, or it isn't there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.data.labels import LabelMap
from semseg_automl.inference import export
from semseg_automl.inference.export import export_onnx, largest_difference, plain_network
from semseg_automl.inference.predict import Predictor
from semseg_automl.models.build import build_segmenter
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.base import AdapterLayer, block_diagonal
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.peft.sam_adapter import high_frequencies

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra [onnx]")
THREE = LabelMap(problem_type="multiclass", names=("a", "b", "c"), values=(0, 1, 2))
TWO = LabelMap(problem_type="binary", names=("background", "foreground"), values=(0, 255))
SIZES = [(2, 3, 96, 160), (1, 3, 64, 224), (1, 3, 128, 128), (3, 3, 32, 64)]
OTHER_FORMS: dict[str, dict[str, Any]] = {
    "compat": {"routing": "compat"},
    "learned": {"routing": "learned"},
    "gelu": {"nonlinearity": "gelu", "gate_scope": "window"},
    "gelu in windows": {
        "routing": "learned",
        "nonlinearity": "gelu",
        "qkv": "separate",
        "gate_scope": "window",
    },
    "q and v apart": {"qkv": "separate", "targets": ("q", "v"), "window_padding": "window"},
}


def _moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every parameter away from its start, so that no part is without effect."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.requires_grad_(False).eval()


def _predictor(labels: LabelMap = THREE, **hyperparameters: Any) -> Predictor:
    config = RunConfig().replace(backbone="sam_tiny", num_experts=2, **hyperparameters)
    return Predictor(_moved(build_segmenter(config, labels.num_outputs)), labels, 96)


def _check(predictor: Predictor, path: Path) -> None:
    """The file against the unmerged network, at sizes with and without padded windows."""
    inputs = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(SIZES)]
    assert largest_difference(predictor.segmenter, path, inputs) < 1e-5


@pytest.mark.parametrize(
    ("adapter", "head", "labels"),
    [("conv_lora", "semantic", THREE), ("lora", "mask_classification", TWO)],
)
def test_the_file_equals_torch_at_any_size_and_batch(
    tmp_path: Path, adapter: str, head: str, labels: LabelMap
) -> None:
    predictor = _predictor(labels, adapter=adapter, head=head)
    _check(predictor, export_onnx(predictor, tmp_path / "deep" / "model.onnx"))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["semantic", "mask_classification"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_and_head_is_exported(tmp_path: Path, adapter: str, head: str) -> None:
    predictor = _predictor(adapter=adapter, head=head)
    _check(predictor, export_onnx(predictor, tmp_path / "model.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_every_form_of_conv_lora_is_exported(tmp_path: Path, form: str) -> None:
    predictor = _predictor(adapter="conv_lora", **OTHER_FORMS[form])
    _check(predictor, export_onnx(predictor, tmp_path / "model.onnx"))


def test_sams_vit_is_exported_for_any_size(tmp_path: Path) -> None:
    config = SamViTConfig(dim=32, depth=2, heads=2, global_blocks=(1,), window=5, embed_dim=32, grid=8)
    network = Segmenter(SamViTEncoder(config), SemanticHead(3, embed_dim=32, num_heads=4, mlp_dim=32), [])
    predictor = Predictor(_moved(network), THREE, 96)
    _check(predictor, export_onnx(predictor, tmp_path / "model.onnx"))


def test_a_stated_size_binds_the_file_and_metadata_holds_what_a_prediction_needs(tmp_path: Path) -> None:
    predictor, palette = _predictor(TWO, adapter="decoder_only"), [[0, 0, 0], [255, 0, 0]]
    path = export_onnx(predictor, tmp_path / "model.onnx", size=(64, 96), facts={"palette": palette})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 64, 96]
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert (facts["format"], facts["format_version"]) == ("semseg_automl onnx", 1)
    assert facts["mean"] == [123.675, 116.28, 103.53] and facts["std"] == [58.395, 57.12, 57.375]
    assert (facts["image_size"], facts["multiple"], facts["scaling"]) == ([64, 96], 32, None)
    assert (facts["values"], facts["threshold"], facts["palette"]) == ([0, 255], 0.5, palette)


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = _predictor(adapter="decoder_only")
    write = export._write

    def other_network(network: torch.nn.Module, *arguments: Any, **options: Any) -> None:
        bent = plain_network(network)
        next(bent.parameters()).data += 0.01
        write(bent, *arguments, **options)

    monkeypatch.setattr(export, "_write", other_network)
    with pytest.raises(ArtifactError, match="differently than torch"):
        export_onnx(predictor, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_merging_leaves_the_model_as_it_is() -> None:
    predictor = _predictor(adapter="ssf")
    assert not any(isinstance(m, AdapterLayer) for m in plain_network(predictor.segmenter).modules())
    assert any(isinstance(m, AdapterLayer) for m in predictor.segmenter.modules())


@pytest.mark.parametrize("size", [(64,), (64, 65), (0, 64), 64, (64.0, 64.0)])
def test_a_wrong_size_is_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        export_onnx(_predictor(adapter="decoder_only"), tmp_path / "model.onnx", size=size)


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'semseg_automl\[onnx\]'"):
        export_onnx(_predictor(adapter="decoder_only"), tmp_path / "model.onnx")


def test_torch_export_records_the_network() -> None:
    network = _predictor(adapter="conv_lora", placement="last_1").segmenter
    images = torch.randn(1, 3, 64, 96)
    recorded = torch.export.export(network, (images,)).module()
    other = torch.randn(1, 3, 64, 96)
    np.testing.assert_allclose(recorded(other).numpy(), network(other).numpy(), atol=1e-5)


def test_block_diagonal_is_torchs() -> None:
    blocks = torch.randn(3, 4, 2)
    assert torch.equal(block_diagonal(blocks), torch.block_diag(*blocks))


@pytest.mark.parametrize("size", [(96, 160), (128, 32), (50, 61)])
def test_traced_high_frequencies_are_those_of_the_fourier_transform(size: tuple[int, int]) -> None:
    recorded = torch.jit.trace(high_frequencies, (torch.randn(1, 3, 64, 96),), check_trace=False)
    pictures = torch.randn(2, 3, *size)
    torch.testing.assert_close(recorded(pictures), high_frequencies(pictures), atol=1e-4, rtol=0)
