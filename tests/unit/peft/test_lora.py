"""LoRA against its equation, and what inject refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.peft.base import AdapterLayer, Site
from semseg_automl.peft.inject import collect_balance_loss, inject, merge_adapters, select_sites
from semseg_automl.peft.lora import LoRALayer
from semseg_automl.peft.registry import ADAPTERS, resolve_method
from semseg_automl.peft.state import adapter_state, count_parameters, fast_parameters, load_adapter_state
from tests.contracts.adapter_contract import CHANNELS, AdapterContract, TinyBlocks, TinyEncoder, make

LORA = AdapterConfig(adapter="lora", rank=2)


class TestLoRA(AdapterContract):
    config = LORA
    needs_grid = False
    merges = True

    def expected_count(self, layer: AdapterLayer) -> int:
        branches = 3 if self.config.qkv == "separate" else 1
        return self.config.rank * (branches * CHANNELS + 3 * CHANNELS)


class TestSeparateLoRA(TestLoRA):
    config = dataclasses.replace(LORA, qkv="separate")


def test_equation_forward_and_gradients() -> None:
    _, (layer, _) = make(LORA, noise=0.3)
    x = torch.randn(2, 5, 3, CHANNELS, dtype=torch.float64, requires_grad=True)
    expected = F.linear(x, layer.base.weight, layer.base.bias) + 16.0 * F.linear(
        F.linear(x, layer.down), layer.up
    )
    inputs = (x, layer.down, layer.up)
    probe = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    out = layer(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for got, want in zip(torch.autograd.grad((out * probe).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("layout", ["qkv", "per_head_qkv"])
def test_separate_branches_hit_their_own_rows(layout: str) -> None:
    config = dataclasses.replace(LORA, qkv="separate", targets=("q", "v"))
    _, (layer, _) = make(config, layout=layout, noise=0.3)
    x = torch.randn(1, 4, 4, CHANNELS, dtype=torch.float64)
    change = layer(x) - layer.base(x)
    for branch, part in enumerate(("q", "v")):
        down = layer.down[2 * branch : 2 * branch + 2]
        expected = 16.0 * F.linear(F.linear(x, down), layer.up[branch])
        torch.testing.assert_close(change[..., layer.site.rows(part)], expected, rtol=0, atol=1e-12)


def test_the_contract_finds_a_parameter_that_only_hangs_on_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(LoRALayer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.idle = nn.Parameter(torch.ones(2))

        def transform(self, z: Tensor) -> Tensor:
            return z + 0.0 * self.idle.sum()

    monkeypatch.setitem(ADAPTERS, "lora", dataclasses.replace(ADAPTERS["lora"], build=Dead))
    with pytest.raises(AssertionError, match="idle"):
        TestLoRA().test_every_trainable_tensor_has_a_gradient_from_the_task_alone()


def test_rank_stabilised_scaling() -> None:
    """s = alpha / sqrt(r) (Kalajdzievski, 2023)."""
    config = dataclasses.replace(LORA, rank=4, alpha=8.0, rslora=True)
    _, (layer, _) = make(config, noise=0.3)
    x = torch.randn(1, 4, 4, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(
        layer(x), layer.base(x) + 4.0 * F.linear(F.linear(x, layer.down), layer.up), rtol=0, atol=1e-12
    )


def test_only_second_matrices_are_fast() -> None:
    encoder, layers = make(LORA)
    assert [id(p) for p in fast_parameters(encoder)] == [id(layer.up) for layer in layers]


def test_separate_branches_at_every_place() -> None:
    """One branch for each of q, k, v, one at proj and in the MLP; still the frozen encoder when merged."""
    config = dataclasses.replace(LORA, qkv="separate", targets=("q", "v", "proj", "mlp"))
    encoder, layers = make(config, noise=0.3, encoder_class=TinyBlocks)
    assert [layer.branches for layer in layers] == 2 * [2, 1, 1, 1]
    x = torch.randn(1, 4, 4, CHANNELS, dtype=torch.float64)
    expected = encoder(x)
    merge_adapters(encoder)
    torch.testing.assert_close(encoder(x), expected, rtol=1e-11, atol=0)


def test_row_layouts() -> None:
    site = TinyEncoder().sites()[0]
    assert site.rows("k").tolist() == [6, 7, 8, 9, 10, 11]
    per_head = dataclasses.replace(site, layout="per_head_qkv")
    assert per_head.rows("k").tolist() == [3, 4, 5, 12, 13, 14]
    with pytest.raises(ConfigError, match="layout"):
        dataclasses.replace(site, layout="kqv").rows("q")


def test_decoder_only_freezes_and_replaces_nothing() -> None:
    encoder = TinyEncoder()
    assert inject(encoder, encoder.sites(), AdapterConfig(adapter="decoder_only")) == []
    assert not any(p.requires_grad for p in encoder.parameters())
    assert isinstance(encoder.blocks[0]["qkv"], nn.Linear)
    assert adapter_state(encoder) == {} and float(collect_balance_loss([])) == 0.0


def test_placement() -> None:
    sites = TinyEncoder().sites()
    assert [s.name for s in select_sites(sites, "all")] == ["block0", "block1"]
    assert [s.name for s in select_sites(sites, "global")] == ["block1"]
    assert [s.name for s in select_sites(sites, "last_1")] == ["block1"]
    assert [s.name for s in select_sites(sites, "last_9")] == ["block0", "block1"]
    for wrong in ("last_0", "last", "first_2", ""):
        with pytest.raises(ConfigError, match="placement"):
            select_sites(sites, wrong)


def test_inject_raises_when_nothing_matches() -> None:
    encoder = TinyEncoder()
    windowed = [s for s in encoder.sites() if s.window]
    for sites, placement in ((windowed, "global"), ([], "all")):
        with pytest.raises(ConfigError, match="nothing to adapt"):
            inject(encoder, sites, dataclasses.replace(LORA, placement=placement))


def test_inject_refuses_what_is_no_bare_linear_layer() -> None:
    encoder = TinyEncoder()
    site = encoder.sites()[0]
    for path, message in (("blocks.7.qkv", "no module"), ("blocks", "no nn.Linear")):
        with pytest.raises(ConfigError, match=message):
            inject(encoder, [dataclasses.replace(site, module_path=path)], LORA)
    with pytest.raises(ConfigError, match="outputs"):
        inject(encoder, [dataclasses.replace(site, heads=5)], LORA)
    inject(encoder, [site], LORA)
    with pytest.raises(ConfigError, match="adapted already"):
        inject(encoder, [site], LORA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "convlora"}, "Did you mean 'conv_lora'"),
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"routing": "lerned"}, "Did you mean 'learned'"),
        ({"gate_scope": "pixel"}, "gate_scope"),
        ({"qkv": "split"}, "qkv"),
        ({"nonlinearity": "relu"}, "nonlinearity"),
        ({"targets": ()}, "targets"),
        ({"targets": ("q", "q")}, "targets"),
        ({"targets": ("o",)}, "target"),
        ({"num_experts": 0}, "num_experts"),
        ({"routing": "learned", "top_k": 9}, "top_k"),
        ({"routing": "learned", "top_k": 0}, "top_k"),
        ({"scales": (1, 2)}, "scales"),
        ({"num_experts": 2, "scales": (0, 2)}, "scales"),
        ({"routing": "compat", "qkv": "separate"}, "compat"),
        *(({"adapter": name, "placement": "lastt"}, "placement") for name in ADAPTERS),
        ({"adapter": "decoder_only", "placement": "last_0"}, "placement"),
    ],
)
def test_bad_hyperparameters(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_method(dataclasses.replace(AdapterConfig(), **change))  # type: ignore[arg-type]


def test_every_registered_method_resolves() -> None:
    for name in ADAPTERS:
        assert resolve_method(AdapterConfig(adapter=name)) is ADAPTERS[name]


def test_load_lists_every_misfit_and_changes_nothing() -> None:
    encoder, _ = make(LORA)
    state = adapter_state(encoder)
    before = {k: v.clone() for k, v in state.items()}
    state["blocks.0.qkv.down"] = torch.zeros(1, 2)
    state["extra"] = torch.zeros(1)
    del state["blocks.1.qkv.up"]
    state["blocks.0.qkv.up"] += 1
    with pytest.raises(ArtifactError) as caught:
        load_adapter_state(encoder, state)
    for part in ("missing: blocks.1.qkv.up", "unknown: extra", "shape of blocks.0.qkv.down"):
        assert part in str(caught.value)
    after = adapter_state(encoder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_counts_by_part() -> None:
    encoder, _ = make(LORA)
    adapters = 2 * 2 * (CHANNELS + 3 * CHANNELS)
    frozen = 2 * (CHANNELS + 1) * 3 * CHANNELS + CHANNELS + 1
    assert count_parameters(encoder) == {
        "total": adapters + frozen,
        "frozen": frozen,
        "trainable": adapters,
        "adapters": adapters,
        "trainable.blocks": adapters,
    }


@pytest.mark.parametrize("adapter", ["lora", "conv_lora"])
@pytest.mark.parametrize("routing", ["compat", "learned"])
def test_paper_counts_at_vit_h(adapter: str, routing: str) -> None:
    """32 fused projections 1280 -> 3840 at rank 3, 8 experts: 491,520 and 23,040 more."""
    site = Site(
        name="a", module_path="qkv", kind="qkv", block=0, n_blocks=1, window=14, heads=16, head_dim=80
    )
    encoder = nn.Module()
    encoder.qkv = nn.Linear(1280, 3840)
    inject(encoder, [site], AdapterConfig(adapter=adapter, rank=3, routing=routing))
    counted = 32 * count_parameters(encoder)["adapters"]
    assert counted == 491_520 + (23_040 if adapter == "conv_lora" else 0)
