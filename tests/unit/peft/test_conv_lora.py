"""Conv-LoRA against forms written out with loops and torch's own convolutions, in float64."""

from __future__ import annotations

import dataclasses
import itertools
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import AdapterLayer
from semseg_automl.peft.conv_lora import ConvLoRALayer
from semseg_automl.peft.inject import collect_balance_loss
from tests.contracts.adapter_contract import CHANNELS, WINDOW, AdapterContract, make

CONV = AdapterConfig(rank=3, num_experts=8, routing="learned")
SHAPE = (8, 12)


NOISE = {"gate.noise": "it only picks the experts, which are kept with noiseless values: the load trains it"}
COMPAT = {**NOISE, "gate.weight": "the softmax over one kept logit is 1: the balance trains it"}
ALL_KEPT: dict[str, str] = {}  # no noise


class TestConvLoRA(AdapterContract):
    config = CONV
    no_task_gradient = NOISE

    def expected_count(self, layer: AdapterLayer) -> int:
        c, r, e = self.config, self.config.rank, self.config.num_experts
        branches = 3 if c.qkv == "separate" else 1
        gate = (1 if c.routing == "dense" else 2) * r * e
        return r * (branches * CHANNELS + 3 * CHANNELS) + branches * (e * (9 * r * r + r) + gate)


class TestDense(TestConvLoRA):
    config = dataclasses.replace(CONV, routing="dense")
    no_task_gradient = ALL_KEPT


class TestSeparate(TestConvLoRA):
    config = dataclasses.replace(CONV, qkv="separate", num_experts=3, top_k=2)


class TestWindowed(TestConvLoRA):
    config = dataclasses.replace(CONV, gate_scope="window", window_padding="window")


class TestGelu(TestConvLoRA):
    config = dataclasses.replace(CONV, nonlinearity="gelu", num_experts=3)


class TestCompat(TestConvLoRA):
    config = dataclasses.replace(CONV, routing="compat")
    no_task_gradient = COMPAT


def interpolated(z: Tensor, scale: int, kernel: Tensor, bias: Tensor, config: AdapterConfig) -> Tensor:
    """E_i on one map (h, w, r), nothing folded; ``compat``: bicubic, zero padding, GELU."""
    compat = config.routing == "compat"
    mode = "bicubic" if compat else "bilinear"
    x = z.permute(2, 0, 1).unsqueeze(0)
    up = F.interpolate(x, scale_factor=float(scale), mode=mode, align_corners=False) if scale > 1 else x
    y = F.conv2d(F.pad(up, (1, 1, 1, 1), mode="constant" if compat else "replicate"), kernel, bias)
    y = F.gelu(y) if compat or config.nonlinearity == "gelu" else y
    y = F.interpolate(y, size=x.shape[2:], mode=mode, align_corners=False) if scale > 1 else y
    return y.squeeze(0).permute(1, 2, 0)


def tiles(window: int) -> list[tuple[slice, slice]]:
    rows, columns = (range(0, n, window or n) for n in SHAPE)
    size = (window or SHAPE[0], window or SHAPE[1])
    return [(slice(y, y + size[0]), slice(x, x + size[1])) for y, x in itertools.product(rows, columns)]


def reference(layer: ConvLoRALayer, x: Tensor, config: AdapterConfig) -> Tensor:
    """W0 x + (alpha / r) Wd (z + E sum_i g_i E_i(z)), one picture, window, branch and expert at a time."""
    compat = config.routing == "compat"
    gate_window = layer.site.window if compat or config.gate_scope == "window" else 0
    pad_window = layer.site.window if compat or config.window_padding == "window" else 0
    keep = config.num_experts if config.routing == "dense" else config.top_k
    up = layer.up_matrix()
    out = layer.base(x)
    r = config.rank
    for g in range(layer.branches):
        z = x @ layer.down[g * r : (g + 1) * r].t()
        pictures = []
        for picture in z:
            values = []  # E_i of the whole picture, tile by tile where padding is per window
            for i, scale in enumerate(layer.scales):
                value = torch.zeros_like(picture)
                for tile in tiles(pad_window):
                    value[tile] = interpolated(
                        picture[tile], scale, layer.kernels[g, i], layer.bias[g, i], config
                    )
                values.append(value)
            u = picture.clone()
            for tile in tiles(gate_window):
                logits = picture[tile].mean((0, 1)) @ layer.gate.weight[g]
                top = logits.topk(keep).indices
                gates = torch.ones(1) if compat else logits.softmax(0)[top] * config.num_experts
                for i, gate in zip(top.tolist(), gates, strict=True):
                    u[tile] = u[tile] + gate * values[i][tile]
            pictures.append(u)
        out = out + config.alpha / r * torch.stack(pictures) @ up[:, g * r : (g + 1) * r].t()
    return out


VARIANTS = {
    "learned": {},
    "dense": {"routing": "dense"},
    "top_3": {"top_k": 3},
    "scales": {"num_experts": 3, "scales": (5, 2, 2)},
    "separate": {"qkv": "separate"},
    "separate q, v": {"qkv": "separate", "targets": ("q", "v"), "gate_scope": "window"},
    "gate by window": {"gate_scope": "window"},
    "padding by window": {"window_padding": "window"},
    "both by window": {"gate_scope": "window", "window_padding": "window"},
    "gelu": {"nonlinearity": "gelu", "routing": "dense"},
    "gelu, gate by window": {"nonlinearity": "gelu", "gate_scope": "window", "num_experts": 4},
    "gelu, separate, windows": {"nonlinearity": "gelu", "qkv": "separate", "window_padding": "window"},
    "compat": {"routing": "compat"},
}


@pytest.mark.parametrize("block", [0, 1], ids=["windowed", "global"])
@pytest.mark.parametrize("name", VARIANTS)
def test_against_the_written_out_form(name: str, block: int) -> None:
    config = dataclasses.replace(CONV, **VARIANTS[name])  # type: ignore[arg-type]
    layer = make(config, noise=0.3, layout="per_head_qkv")[1][block].eval()
    assert isinstance(layer, ConvLoRALayer)
    x = torch.randn(2, *SHAPE, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    inputs = [x, *(p for n, p in layer.trainable_parameters() if "gate" not in n)]
    if config.routing != "compat":
        inputs.append(layer.gate.weight)
    expected, got = reference(layer, x, config), layer(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    probe = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    for mine, theirs in zip(torch.autograd.grad((got * probe).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("routing", ["learned", "dense", "compat"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("grid", [(8, 8), (4, 12)])
def test_single_and_half_precision_against_the_written_out_form(
    grid: tuple[int, int], batch: int, routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square and other grids, windowed and global, every scale; bfloat16 routed as float32 is."""
    monkeypatch.setattr(sys.modules[__name__], "SHAPE", grid)
    config = dataclasses.replace(CONV, routing=routing, top_k=1 if routing == "compat" else 8)
    for layer in make(config, noise=0.3)[1]:
        assert isinstance(layer, ConvLoRALayer)
        layer.float().eval()
        x = torch.randn(batch, *grid, CHANNELS, generator=torch.Generator().manual_seed(0)).requires_grad_()
        expected, found = reference(layer, x, config), layer(x)
        size = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * size)
        inputs = [x, layer.down, layer.up, layer.kernels, layer.bias]
        wanted = torch.autograd.grad(expected.sum(), inputs)
        for mine, theirs in zip(torch.autograd.grad(found.sum(), inputs), wanted, strict=True):
            scale = float(theirs.abs().max())
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * max(1.0, scale))
        with torch.autocast("cpu", torch.bfloat16):
            rough = layer(x)
        if routing != "compat":  # its one expert may be another one where two logits are close
            assert (rough.float() - expected).abs().mean() < 0.03 * expected.std()
        rough.float().sum().backward()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in inputs)


@pytest.mark.parametrize("routing", ["learned", "dense"])
def test_the_gate_gets_a_gradient_from_the_task_alone(routing: str) -> None:
    encoder, layers = make(dataclasses.replace(CONV, routing=routing), noise=0.3)
    encoder(torch.randn(2, *SHAPE, CHANNELS, dtype=torch.float64)).square().mean().backward()
    for layer in layers:
        assert layer.gate.weight.grad.abs().sum() > 1e-6  # type: ignore[union-attr]


def test_compat_gates_get_none() -> None:
    encoder, layers = make(dataclasses.replace(CONV, routing="compat"), noise=0.3)
    encoder(torch.randn(2, *SHAPE, CHANNELS, dtype=torch.float64)).square().mean().backward()
    assert not any(layer.gate.weight.grad.any() for layer in layers)  # type: ignore[union-attr]


@pytest.mark.parametrize("block", [0, 1], ids=["windowed", "global"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"nonlinearity": "gelu"},
        {"routing": "compat"},
        {"gate_scope": "window"},
        {"qkv": "separate"},
        {"nonlinearity": "gelu", "gate_scope": "window", "qkv": "separate"},
    ],
    ids=str,
)
def test_forcing_an_expert_trains_that_expert_alone(change: dict[str, str], block: int) -> None:
    """Of one branch (q, where they are separate), in the last of its gate's windows or maps."""
    layer = make(dataclasses.replace(CONV, **change), noise=0.3)[1][block]  # type: ignore[arg-type]
    assert isinstance(layer, ConvLoRALayer)
    units = 2 * 6 if layer.gate_window else 2  # 8 x 12 tokens: six windows of 4 x 4
    for expert in range(8):
        layer.zero_grad()
        forced = torch.zeros(units, layer.branches, 8, dtype=torch.float64)
        forced[-1, 0, expert] = 1.0
        layer.gate.forward = lambda pooled, forced=forced: (forced, None)  # type: ignore[method-assign]
        layer(torch.randn(2, *SHAPE, CHANNELS, dtype=torch.float64)).square().mean().backward()
        for parameter in (layer.kernels, layer.bias):  # (G, E, ...)
            assert parameter.grad is not None
            sizes = parameter.grad.flatten(2).abs().sum(-1)
            assert sizes[0, expert] > 0 and sizes.count_nonzero() == 1


def test_experts_start_different_and_biases_at_zero() -> None:
    layer = make(CONV)[1][0]
    flat = layer.kernels.detach()[0].flatten(1)
    assert (torch.cdist(flat, flat) + torch.eye(8) > 0.1).all() and not layer.bias.any()
    assert float(flat.abs().max()) <= 27**-0.5


def test_balance_loss_is_the_mean_over_layers() -> None:
    encoder, layers = make(CONV, noise=0.3)
    encoder(torch.randn(2, *SHAPE, CHANNELS, dtype=torch.float64))
    loss = collect_balance_loss(layers)
    torch.testing.assert_close(loss, (layers[0].aux_loss + layers[1].aux_loss) / 2)
    loss.backward()
    assert all(layer.gate.noise.grad.abs().sum() > 0 for layer in layers)


def test_window_gates_route_windows_apart() -> None:
    config = dataclasses.replace(CONV, gate_scope="window")
    layer = make(config, noise=0.3)[1][0].eval()
    gates = layer._gates(torch.randn(2, *SHAPE, 1, 3, dtype=torch.float64) * 5)
    assert gates.shape == (2, 6, 1, 8)
    assert len(gates.argmax(-1).unique()) > 1


def test_needs_a_grid_and_whole_windows() -> None:
    layer = make(dataclasses.replace(CONV, gate_scope="window"))[1][0]
    with pytest.raises(ConfigError, match="grid"):
        layer(torch.zeros(2, 12, CHANNELS, dtype=torch.float64))
    with pytest.raises(ConfigError, match="multiple"):
        layer(torch.zeros(2, WINDOW + 1, WINDOW, CHANNELS, dtype=torch.float64))
