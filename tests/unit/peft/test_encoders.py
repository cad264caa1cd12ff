"""Every method on the real encoder classes, with tiny sizes, in float64; the paper's counts at ViT-H."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.models.build import SAM_TINY
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.peft import lst
from semseg_automl.peft.inject import inject, merge_adapters
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.peft.state import (
    adapter_parameters,
    adapter_state,
    count_parameters,
    load_adapter_state,
)

SAM = SamViTConfig(dim=16, depth=2, heads=2, global_blocks=(1,), window=4, embed_dim=16, grid=4)
METHODS = [name for name in ADAPTERS if name != "decoder_only"]
MERGING = ("lora", "bitfit", "ssf", "parallel_adapter")
COMPANIONS = [name for name in METHODS if ADAPTERS[name].companion is not None]
LAYERED = [name for name in METHODS if name not in COMPANIONS]
FROZEN_STEM = [name for name in METHODS if name != "full"]


@pytest.fixture(autouse=True)
def _small_side_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladder's ViT with three narrow blocks."""
    monkeypatch.setattr(lst, "VIT_TINY", lst.SideSize(dim=12, depth=3, heads=2))


def build(family: str) -> Encoder:
    """Weights and biases of every kind are moved off their starts, so that padding is seen."""
    torch.manual_seed(0)
    encoder = TinyViTEncoder(SAM_TINY) if family == "tiny_vit" else SamViTEncoder(SAM)
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder.double()


def images() -> torch.Tensor:
    """Neither square nor a whole number of windows in any stage: (1, 3, 48, 80)."""
    return torch.randn(1, 3, 48, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def adapted(encoder: Encoder, method: str, noise: float = 0.0, placement: str = "all") -> Encoder:
    config = AdapterConfig(adapter=method, rank=2, num_experts=2, placement=placement)
    inject(encoder, encoder.sites(), config)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter_parameters(encoder).values():
        shift = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += noise * shift
    return encoder.eval()


@pytest.mark.parametrize("family", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("method", METHODS)
def test_starts_as_the_bare_encoder_and_every_tensor_gets_a_gradient(family: str, method: str) -> None:
    encoder = build(family)
    bare = encoder(images()).embedding.detach()
    adapted(encoder, method).train()  # gates learn from their noise in training only
    out = encoder(images())
    torch.testing.assert_close(out.embedding, bare, rtol=0, atol=1e-12)
    loss = out.embedding.square().mean() + sum(skip.mean() for skip in out.skips.values())
    loss.backward()
    trained = adapter_parameters(encoder)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == set(trained)
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert any(p.grad is not None and p.grad.any() for p in trained.values())


@pytest.mark.parametrize("family", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("method", FROZEN_STEM)
def test_the_stem_stays_without_a_graph(family: str, method: str) -> None:
    encoder = adapted(build(family), method)
    assert not encoder.stem(images()).requires_grad
    assert encoder.first_trained() == (0 if method in LAYERED else -1)
    if method in LAYERED:  # a companion needs the picture
        assert torch.equal(encoder.tail(encoder.stem(images())).embedding, encoder(images()).embedding)


@pytest.mark.parametrize("family", ["tiny_vit", "sam_vit"])
def test_full_trains_the_stem_unless_blocks_are_chosen(family: str) -> None:
    encoder = adapted(build(family), "full")
    assert encoder.stem(images()).requires_grad and encoder.first_trained() == -1
    assert count_parameters(encoder)["frozen"] == 0
    part = adapted(build(family), "full", placement="last_1")
    last = next(site for site in part.sites() if site.block == site.n_blocks - 1)
    block = part.get_submodule(last.module_path.rsplit(".", 2)[0])
    assert part.first_trained() == part.depth - 1
    assert not part.lower(images(), part.depth - 1)["x"].requires_grad
    assert count_parameters(part)["adapters"] == sum(p.numel() for p in block.parameters())


def test_full_leaves_the_tensors_that_the_encoder_was_loaded_from() -> None:
    stored = {name: value.clone() for name, value in build("sam_vit").state_dict().items()}
    with torch.device("meta"):
        encoder = SamViTEncoder(SAM)
    encoder.load_state_dict(stored, assign=True)
    before = {name: value.clone() for name, value in stored.items()}
    adapted(encoder, "full", noise=0.1)
    assert all(torch.equal(before[name], value) for name, value in stored.items())
    assert not torch.equal(encoder.pos_embed, stored["pos_embed"])


@pytest.mark.parametrize("family", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("method", METHODS)
def test_state_round_trip(family: str, method: str) -> None:
    source, target = adapted(build(family), method, noise=0.1), adapted(build(family), method)
    assert not torch.equal(source(images()).embedding, target(images()).embedding)
    load_adapter_state(target, adapter_state(source))
    assert torch.equal(source(images()).embedding, target(images()).embedding)


@pytest.mark.parametrize("family", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("method", MERGING)
def test_merged_encoders_compute_the_same_where_windows_are_padded(family: str, method: str) -> None:
    encoder = adapted(build(family), method, noise=0.1)
    bare = build(family)(images()).embedding
    merged = copy.deepcopy(encoder)
    assert merge_adapters(merged) > 0 and adapter_parameters(merged) == {}
    expected = encoder(images()).embedding
    assert not torch.allclose(expected, bare)
    torch.testing.assert_close(merged(images()).embedding, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("family", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_and_checkpointing(family: str, method: str) -> None:
    encoder = adapted(build(family), method, noise=0.01).float()
    encoder.gradient_checkpointing = True
    pictures = images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(pictures).embedding
    low.float().square().mean().backward()
    trained = adapter_parameters(encoder).values()
    assert any(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad.isfinite().all() for p in trained if p.grad is not None)
    with torch.no_grad():
        exact = encoder(pictures).embedding
    torch.testing.assert_close(low.detach().float(), exact, rtol=0.1, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize("method", LAYERED)
@pytest.mark.parametrize("placement", ["last_1", "global"])
def test_placement(method: str, placement: str) -> None:
    encoder = adapted(build("sam_vit"), method, placement=placement)
    assert all(name.startswith("blocks.1.") for name in adapter_parameters(encoder))


def test_formulas_of_a_block() -> None:
    """Docstrings' numbers for two blocks of width 16, MLP 64, r = 2."""
    c, r = SAM.dim, 2
    formulas = {
        "bitfit": 9 * c,
        "ssf": 18 * c,
        "lora": 4 * r * c,
        "adapter": 2 * (2 * r * c + r + c),
        "parallel_adapter": 2 * r * c + r + c,
        "multi_scale_lora": 4 * r * c + 2 * (9 * r * r + r),
        "conv_lora": 4 * r * c + 2 * (9 * r * r + r) + r * 2,
        "mona": 2 * (2 * r * c + 5 * c + r * r + 88 * r),
        "vpt": r * c + SAM.heads,
    }
    assert set(formulas) == set(LAYERED) - {"full"}
    for method, number in formulas.items():
        assert count_parameters(adapted(build("sam_vit"), method))["adapters"] == 2 * number, method


def test_paper_counts_on_the_real_vit_h() -> None:
    """Released layout: decoder 3,505,536, LoRA 491,520 more, Conv-LoRA 23,040 more, 4,020,096 together."""
    blocks = (7, 15, 23, 31)
    counts: dict[str, int] = {}
    for method in ("lora", "conv_lora"):
        with torch.device("meta"):
            encoder = SamViTEncoder(SamViTConfig(dim=1280, depth=32, heads=16, global_blocks=blocks))
            head: nn.Module = SemanticHead(1)
        inject(encoder, encoder.sites(), AdapterConfig(adapter=method, rank=3, routing="compat"))
        counts[method] = count_parameters(encoder)["adapters"]
        counts["decoder_only"] = sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert counts == {"decoder_only": 3_505_536, "lora": 491_520, "conv_lora": 491_520 + 23_040}
    assert counts["decoder_only"] + counts["conv_lora"] == 4_020_096
