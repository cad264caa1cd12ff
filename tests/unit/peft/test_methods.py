"""The other methods of the papers: the contract, and each against its formula written out in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import AdapterLayer
from semseg_automl.peft.bitfit import BitFitLayer
from semseg_automl.peft.conv_lora import ConvLoRALayer
from semseg_automl.peft.inject import inject, merge_adapters
from semseg_automl.peft.mona import MonaLayer
from semseg_automl.peft.multi_scale_lora import MultiScaleLoRALayer
from semseg_automl.peft.parallel_adapter import ParallelDownLayer, ParallelUpLayer
from semseg_automl.peft.registry import ADAPTERS
from semseg_automl.peft.ssf import SSFLayer
from semseg_automl.peft.state import adapter_parameters, adapter_state, count_parameters
from semseg_automl.peft.vpt import PromptLayer, PromptOutputLayer
from tests.contracts.adapter_contract import (
    CHANNELS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    AdapterContract,
    TinyBlocks,
    TinyEncoder,
    make,
)

RANK = 2


def config(adapter: str, **changes: object) -> AdapterConfig:
    return dataclasses.replace(AdapterConfig(adapter=adapter, rank=RANK), **changes)  # type: ignore[arg-type]


def layers_of(adapter: str, role: str) -> list[AdapterLayer]:
    layers = make(config(adapter), noise=0.3, encoder_class=TinyBlocks)[1]
    return [layer for layer in layers if layer.site.role == role]


def maps(channels: int = CHANNELS, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*(shape or (2, 5, 3)), channels, generator=generator, dtype=torch.float64)


def check(layer: AdapterLayer, x: Tensor, expected: Tensor) -> None:
    """Outputs, and the gradients of a random probe, equal those of the written-out form."""
    got, inputs = layer(x), [value for _, value in layer.trainable_parameters()]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    probe = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    for mine, theirs in zip(torch.autograd.grad((got * probe).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


class TestBitFit(AdapterContract):
    config = config("bitfit")
    encoder_class = TinyBlocks
    needs_grid, random_start, merges = False, False, True

    def expected_count(self, layer: AdapterLayer) -> int:
        return layer.base.out_features

    def test_a_block_has_nine_times_its_width(self) -> None:
        assert count_parameters(self.make()[0])["adapters"] == 2 * 9 * CHANNELS

    @pytest.mark.parametrize("role", ["qkv", "proj", "mlp_in", "mlp_out"])
    def test_formula(self, role: str) -> None:
        for layer in layers_of("bitfit", role):
            assert isinstance(layer, BitFitLayer)
            x = maps(layer.base.in_features)
            check(layer, x, F.linear(x, layer.base.weight, layer.base.bias + layer.shift))


class TestSSF(AdapterContract):
    config = config("ssf")
    encoder_class = TinyBlocks
    needs_grid, random_start, merges = False, False, True

    def expected_count(self, layer: AdapterLayer) -> int:
        return 2 * layer.base.out_features

    @pytest.mark.parametrize("role", ["qkv", "proj", "mlp_in", "mlp_out"])
    def test_formula(self, role: str) -> None:
        for layer in layers_of("ssf", role):
            assert isinstance(layer, SSFLayer)
            x = maps(layer.base.in_features)
            y = x @ layer.base.weight.t() + layer.base.bias
            check(layer, x, layer.scale * y + layer.shift)

    @pytest.mark.parametrize("layout", ["qkv", "per_head_qkv"])
    def test_merging_fewer_targets(self, layout: str) -> None:
        encoder, _ = self.make(config("ssf", targets=("q", "v")), layout=layout, noise=0.3)
        expected = encoder(self.maps())
        merge_adapters(encoder)
        torch.testing.assert_close(encoder(self.maps()), expected, rtol=0, atol=1e-11)


class TestSerialAdapter(AdapterContract):
    config = config("adapter")
    encoder_class = TinyBlocks
    needs_grid, places = False, ("proj", "mlp")

    def expected_count(self, layer: AdapterLayer) -> int:
        return 2 * RANK * CHANNELS + RANK + CHANNELS

    @pytest.mark.parametrize("role", ["proj", "mlp_out"])
    def test_formula(self, role: str) -> None:
        for layer in layers_of("adapter", role):
            x = maps(layer.base.in_features)
            y = x @ layer.base.weight.t() + layer.base.bias
            z = F.gelu(y @ layer.down.t() + layer.down_bias)
            check(layer, x, y + z @ layer.up.t() + layer.up_bias)

    def test_places(self) -> None:
        assert [layer.site.role for layer in self.make()[1]] == 2 * ["proj", "mlp_out"]


class TestParallelAdapter(AdapterContract):
    config = config("parallel_adapter")
    encoder_class = TinyBlocks
    needs_grid, places, merges = False, ("mlp",), True

    def expected_count(self, layer: AdapterLayer) -> int:
        return RANK * CHANNELS + (RANK if layer.site.part == "in" else CHANNELS)

    def test_formula_of_the_whole_mlp(self) -> None:
        down, up = (layers_of("parallel_adapter", role)[0] for role in ("mlp_in", "mlp_out"))
        assert isinstance(down, ParallelDownLayer) and isinstance(up, ParallelUpLayer)
        x = maps()
        beside = F.gelu(x @ down.down.t() + down.down_bias) @ up.up.t() + up.up_bias
        expected = up.base(F.gelu(down.base(x))) + 32.0 / RANK * beside
        torch.testing.assert_close(up(F.gelu(down(x))), expected, rtol=0, atol=1e-11)

    def test_either_half_can_be_disabled(self) -> None:
        down, up = (layers_of("parallel_adapter", role)[0] for role in ("mlp_in", "mlp_out"))
        x = maps()
        bare = up.base(F.gelu(down.base(x)))
        for first, second in ((True, False), (False, True), (False, False)):
            down.enabled, up.enabled = first, second
            assert torch.equal(up(F.gelu(down(x))), bare)

    def test_other_sites_are_refused(self) -> None:
        encoder = TinyBlocks()
        qkv = encoder.sites()[0]
        with pytest.raises(ConfigError, match="'mlp_in' or 'mlp_out'"):
            assert ADAPTERS["parallel_adapter"].build is not None
            ADAPTERS["parallel_adapter"].build(
                encoder.blocks[0]["qkv"], qkv, self.config, torch.Generator().manual_seed(0)
            )


class TestMona(AdapterContract):
    config = config("mona")
    encoder_class = TinyBlocks
    places = ("proj", "mlp")

    def expected_count(self, layer: AdapterLayer) -> int:
        return 2 * RANK * CHANNELS + 5 * CHANNELS + RANK**2 + 88 * RANK

    @pytest.mark.parametrize("role", ["proj", "mlp_out"])
    def test_formula(self, role: str) -> None:
        """Every convolution as a sum over its taps, zero outside of the map."""
        for layer in layers_of("mona", role):
            assert isinstance(layer, MonaLayer)
            x = maps(layer.base.in_features)
            y = x @ layer.base.weight.t() + layer.base.bias
            mean, var = y.mean(-1, keepdim=True), y.var(-1, unbiased=False, keepdim=True)
            n = (y - mean) / torch.sqrt(var + 1e-5) * layer.norm_weight + layer.norm_bias
            z = (n * layer.norm_scale + y * layer.skip_scale) @ layer.down.t() + layer.down_bias
            _, h, w, _ = z.shape
            seen = torch.zeros_like(z)
            for i, k in enumerate((3, 5, 7)):
                padded = F.pad(z, (0, 0, k // 2, k // 2, k // 2, k // 2))
                taps = layer.depthwise[i][:, 0]  # (r, k, k)
                for dy in range(k):
                    for dx in range(k):
                        seen = seen + padded[:, dy : dy + h, dx : dx + w] * taps[:, dy, dx]
                seen = seen + layer.depthwise_bias[i]
            m = z + seen / 3
            p = m + m @ layer.mix.t() + layer.mix_bias
            check(layer, x, y + F.gelu(p) @ layer.up.t() + layer.up_bias)

    def test_starts_of_the_paper(self) -> None:
        layer = self.make()[1][0]
        assert isinstance(layer, MonaLayer)
        assert layer.norm_scale.float().tolist() == torch.full((CHANNELS,), 1e-6).tolist()
        assert (layer.skip_scale == 1).all() and not layer.up.any()


class TestMultiScaleLoRA(AdapterContract):
    config = config("multi_scale_lora", num_experts=4)

    def expected_count(self, layer: AdapterLayer) -> int:
        branches = 3 if self.config.qkv == "separate" else 1
        experts = branches * self.config.num_experts * (9 * RANK**2 + RANK)
        return RANK * (branches * CHANNELS + 3 * CHANNELS) + experts


class TestMultiScaleSeparate(TestMultiScaleLoRA):
    config = config("multi_scale_lora", num_experts=3, qkv="separate", window_padding="window")


class TestMultiScaleGelu(TestMultiScaleLoRA):
    config = config("multi_scale_lora", num_experts=3, nonlinearity="gelu")


@pytest.mark.parametrize("nonlinearity", ["none", "gelu"])
def test_multi_scale_is_the_sum_over_the_scales(nonlinearity: str) -> None:
    chosen = config("multi_scale_lora", scales=(1, 2, 3), num_experts=3, nonlinearity=nonlinearity)
    layer = make(chosen, noise=0.3)[1][1]
    assert isinstance(layer, MultiScaleLoRALayer)
    x = maps(CHANNELS, 2, 4, 6)
    z = (x @ layer.down.t()).permute(0, 3, 1, 2)
    u = z
    for i, s in enumerate((1, 2, 3)):
        up = F.interpolate(z, scale_factor=float(s), mode="bilinear", align_corners=False)
        y = F.conv2d(F.pad(up, (1, 1, 1, 1), mode="replicate"), layer.kernels[0, i], layer.bias[0, i])
        y = F.gelu(y) if nonlinearity == "gelu" else y
        u = u + F.interpolate(y, size=z.shape[2:], mode="bilinear", align_corners=False)
    expected = layer.base(x) + 32.0 / RANK * u.permute(0, 2, 3, 1) @ layer.up.t()
    check(layer, x, expected)


def test_multi_scale_is_dense_conv_lora_with_equal_gates() -> None:
    multi = make(config("multi_scale_lora"), noise=0.3)[1][0]
    dense = make(config("conv_lora", routing="dense"))[1][0]
    assert isinstance(dense, ConvLoRALayer)
    dense.load_state_dict(multi.state_dict(), strict=False)
    dense.gate.weight.data.zero_()
    x = maps(CHANNELS, 2, 8, 12)
    torch.testing.assert_close(multi(x), dense(x), rtol=0, atol=1e-12)


class TestFull(AdapterContract):
    """It has no layers: what the contract says of them is empty, and the count is the encoder's."""

    config = config("full")
    encoder_class = TinyBlocks
    needs_grid, random_start, places = False, False, ()

    def test_disabled_layers_are_the_frozen_encoder(self) -> None:
        assert self.make()[1] == []  # nothing to disable: the base itself is what is trained

    def test_merging_is_exact_or_refused(self) -> None:
        assert merge_adapters(self.make()[0]) == 0

    def test_count_is_the_formula(self) -> None:
        encoder, _ = self.make()
        everything = sum(p.numel() for p in encoder.parameters())
        counts = count_parameters(encoder)
        assert counts["adapters"] == counts["trainable"] == counts["total"] == everything
        assert counts["frozen"] == 0
        assert set(adapter_state(encoder)) == {name for name, _ in encoder.named_parameters()}

    def test_placement_chooses_blocks(self) -> None:
        encoder, _ = self.make(config("full", placement="last_1"))
        block = {f"blocks.1.{name}" for name, _ in encoder.blocks[1].named_parameters()}
        assert set(adapter_parameters(encoder)) == block
        assert {name for name, p in encoder.named_parameters() if p.requires_grad} == block
        with pytest.raises(ConfigError, match="nothing to adapt"):
            inject(TinyEncoder(), [], config("full", placement="last_1"))


class TestVPT(AdapterContract):
    config = config("vpt")
    encoder_class = TinyBlocks
    needs_grid, places = False, ()

    def expected_count(self, layer: AdapterLayer) -> int:
        return RANK * CHANNELS + HEADS if layer.site.kind == "qkv" else 0

    @pytest.mark.parametrize("layout", ["qkv", "per_head_qkv"])
    def test_formula(self, layout: str) -> None:
        """Head by head: what a query reads from the prompts, times the gate, reaches proj."""
        _, layers = self.make(layout=layout, noise=0.3)
        qkv, proj = layers[0], layers[1]
        assert isinstance(qkv, PromptLayer) and isinstance(proj, PromptOutputLayer)
        x, a = maps(), maps()
        q, k, v = (t @ qkv.base.weight.t() + qkv.base.bias for t in (x, qkv.prompts, qkv.prompts))
        read = torch.zeros_like(a)
        for head in range(HEADS):
            own = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            rows = {part: qkv.site.rows(part)[own] for part in "qkv"}
            scores = q[..., rows["q"]] @ k[:, rows["k"]].t() / HEAD_DIM**0.5
            read[..., own] = qkv.gate[head] * scores.softmax(-1) @ v[:, rows["v"]]
        torch.testing.assert_close(qkv(x), qkv.base(x), rtol=0, atol=0)
        torch.testing.assert_close(proj(a), proj.base(a + read), rtol=0, atol=1e-12)
        assert torch.equal(proj(a), proj.base(a))  # what was read is added once

    def test_shallow_prompts_stand_in_the_first_block_of_the_placement(self) -> None:
        for placement, block in (("all", 0), ("last_1", 1)):
            _, layers = self.make(config("vpt", prompt_depth="shallow", placement=placement))
            assert [(layer.site.block, layer.site.role) for layer in layers] == [
                (block, "qkv"),
                (block, "proj"),
            ]

    def test_half_an_attention_is_refused(self) -> None:
        encoder = TinyBlocks()
        sites = [site for site in encoder.sites() if site.kind != "proj"]
        with pytest.raises(ConfigError, match="only one of them"):
            inject(encoder, sites, config("vpt"))


def test_hidden_width() -> None:
    assert layers_of("ssf", "mlp_in")[0].base.out_features == HIDDEN
