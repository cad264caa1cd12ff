"""TinyViT against timm's, whose blocks are the same under other names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.tiny_vit import TinyViTConfig, TinyViTEncoder
from semseg_automl.models.pretrained import encoder_state, load_encoder
from tests.contracts.encoder_contract import CutContract, EncoderContract

SMALL = TinyViTConfig(
    dims=(8, 16, 16, 32), depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), windows=(7, 3, 4, 3), embed_dim=16
)


def timm_twin(config: TinyViTConfig) -> TinyVit:
    """timm's network with everything random, batch statistics too, and stride 16 as MobileSAM has it."""
    twin = TinyVit(
        embed_dims=config.dims,
        depths=config.depths,
        num_heads=config.heads,
        window_sizes=config.windows,
        drop_path_rate=0.0,
        num_classes=0,
    ).eval()
    twin.stages[3].downsample.conv2.conv.stride = (1, 1)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    for name, parameter in twin.named_parameters():
        if parameter.ndim == 1 or "attention_biases" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return twin


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's keys under MobileSAM's names: merging belongs to the end of the stage before."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("head."):
            continue
        key = key.replace(".conv.weight", ".c.weight").replace("stages.", "layers.")
        key = key.replace("patch_embed.conv1", "patch_embed.seq.0").replace(
            "patch_embed.conv2", "patch_embed.seq.2"
        )
        for i in (1, 2, 3):
            key = key.replace(f"layers.{i}.downsample", f"layers.{i - 1}.downsample")
        renamed[key] = value
    return renamed


def assert_equals_twin(encoder: TinyViTEncoder, twin: TinyVit, images: Tensor) -> None:
    with torch.no_grad():
        out = encoder(images)
        last, maps = twin.forward_intermediates(images)
        expected = encoder.neck(last)
    torch.testing.assert_close(out.skips[4], maps[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(out.skips[8], maps[1], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(out.embedding, expected, atol=2e-5, rtol=1e-4)


class TestContract(CutContract, EncoderContract):
    def make(self) -> Encoder:
        torch.manual_seed(0)
        return TinyViTEncoder(SMALL)


class TestContractWithGlobalAttention(CutContract, EncoderContract):
    def make(self) -> Encoder:
        torch.manual_seed(0)
        return TinyViTEncoder(
            TinyViTConfig(
                dims=(8, 16, 16, 32),
                depths=(1, 1, 1, 1),
                heads=(1, 2, 2, 4),
                windows=(0, 4, 4, 0),
                embed_dim=16,
            )
        )


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (112, 48)])
def test_equals_timm_with_batch_norm_folded(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    twin, encoder = timm_twin(SMALL), TinyViTEncoder(SMALL)
    state = published_names(twin.state_dict())
    state |= {f"neck.{k}": v for k, v in encoder.neck.state_dict().items()}
    state |= {
        "norm_head.weight": torch.ones(32),
        "norm_head.bias": torch.zeros(32),  # in mobile_sam.pt, unused
        "head.weight": torch.zeros(10, 32),
        "head.bias": torch.zeros(10),
    }
    encoder.load_state_dict(state, strict=True)
    assert_equals_twin(encoder, twin, torch.randn(2, 3, *size))


def test_own_state_round_trip_is_exact() -> None:
    first, second = TinyViTEncoder(SMALL), TinyViTEncoder(SMALL)
    second.load_state_dict(first.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(first(images).embedding, second(images).embedding)


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_a_wrong_state_is_refused(change: str) -> None:
    encoder = TinyViTEncoder(SMALL)
    state = dict(encoder.state_dict())
    if change == "missing":
        del state["layers.2.blocks.1.attn.qkv.bias"]
    elif change == "extra":
        state["layers.2.blocks.1.attn.other"] = torch.zeros(1)
    else:
        state["neck.0.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"layers\.2\.blocks\.1\.attn|neck\.0\.weight"):
        encoder.load_state_dict(state, strict=True)


def test_padding_of_windows_is_seen_as_in_the_published_model() -> None:
    """Growing the map by whole windows of other content changes a window; its own padding is constant."""
    torch.manual_seed(0)
    twin, encoder = timm_twin(SMALL), TinyViTEncoder(SMALL)
    block, other = encoder.layers[1].blocks[0], twin.stages[1].blocks[0]
    block.load_state_dict({k.replace(".conv.weight", ".c.weight"): v for k, v in other.state_dict().items()})
    x = torch.randn(1, 5, 4, 16)  # windows of 3: one row and two columns of padding
    with torch.no_grad():
        torch.testing.assert_close(block(x), other(x), atol=1e-5, rtol=1e-4)


@pytest.mark.weights
def test_real_weights_equal_timm(weights_folder: Path) -> None:
    state = encoder_state(load_file(weights_folder / "mobile_sam_npm.safetensors"))
    encoder = TinyViTEncoder()
    load_encoder(encoder, {f"image_encoder.{k}": v for k, v in state.items()})
    twin = timm_twin(TinyViTConfig())
    own_names = {
        published_names({k: v}).popitem()[0]: k
        for k, v in twin.state_dict().items()
        if not k.startswith("head.")
    }
    twin.load_state_dict({own_names[k]: v for k, v in state.items() if k in own_names}, strict=False)
    assert {k for k in state if k not in own_names} == {f"neck.{k}" for k in encoder.neck.state_dict()}
    assert_equals_twin(encoder, twin, torch.randn(1, 3, 96, 160))
