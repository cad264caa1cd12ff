"""What every adapter method must keep to: inherit from AdapterContract and set ``config``."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import QKV, AdapterLayer, Site
from semseg_automl.peft.inject import collect_balance_loss, inject, merge_adapters
from semseg_automl.peft.registry import PLACES
from semseg_automl.peft.state import adapter_parameters, adapter_state, count_parameters, load_adapter_state

HEADS, HEAD_DIM, WINDOW = 2, 3, 4
CHANNELS = HEADS * HEAD_DIM
HIDDEN = 4 * CHANNELS
DEAD = 1e-9  # no entry of a gradient is larger: rounding, or a parameter that only hangs on the graph


class TinyEncoder(nn.Module):
    """Two projections, one for windowed and one for global attention, on maps (B, h, w, 6)."""

    def __init__(self, layout: str = "qkv") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"qkv": nn.Linear(CHANNELS, 3 * CHANNELS)}) for _ in range(2)
        )
        self.neck = nn.Linear(CHANNELS, 1)
        self.layout = layout

    def sites(self) -> list[Site]:
        return [
            Site(
                name=f"block{i}",
                module_path=f"blocks.{i}.qkv",
                kind="qkv",
                block=i,
                n_blocks=2,
                window=WINDOW if i == 0 else 0,
                heads=HEADS,
                head_dim=HEAD_DIM,
                layout=self.layout,
            )
            for i in range(2)
        ]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            q, k, v = block["qkv"](x).chunk(3, dim=-1)
            x = x + torch.tanh(q) * k + v
        return self.neck(x)


class TinyBlocks(TinyEncoder):
    """The same with proj and an MLP, so that every role of site is there."""

    def __init__(self, layout: str = "qkv") -> None:
        super().__init__(layout)
        for block in self.blocks:
            block["proj"] = nn.Linear(CHANNELS, CHANNELS)
            block["lin1"] = nn.Linear(CHANNELS, HIDDEN)
            block["lin2"] = nn.Linear(HIDDEN, CHANNELS)

    def sites(self) -> list[Site]:
        more = (("proj", "proj", ""), ("lin1", "mlp", "in"), ("lin2", "mlp", "out"))
        return [
            dataclasses.replace(
                site, name=site.name + name, module_path=f"blocks.{site.block}.{name}", kind=kind, part=part
            )
            for site in super().sites()
            for name, kind, part in (("qkv", "qkv", ""), *more)
        ]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            q, k, v = block["qkv"](x).chunk(3, dim=-1)
            x = x + block["proj"](torch.tanh(q) * k + v)
            x = x + block["lin2"](nn.functional.gelu(block["lin1"](x)))
        return self.neck(x)


def make(
    config: AdapterConfig,
    *,
    seed: int = 0,
    layout: str = "qkv",
    noise: float = 0.0,
    encoder_class: type[TinyEncoder] = TinyEncoder,
) -> tuple[TinyEncoder, list[AdapterLayer]]:
    """A float64 encoder with adapters; ``noise`` > 0 moves every trainable value off its start."""
    torch.manual_seed(1)
    encoder = encoder_class(layout).double()
    layers = inject(encoder, encoder.sites(), config, seed)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter_parameters(encoder).values():
        shift = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += noise * shift
    return encoder, layers


class AdapterContract:
    """Subclasses set ``config`` and :meth:`expected_count`.

    Attributes
    ----------
    needs_grid : False: the method also takes (B, N, C).
    encoder_class : TinyBlocks where the method adapts more than q, k, v.
    random_start : False where the seed decides nothing.
    places : the targets that the method has; empty where there is no choice.
    merges : True where the layers merge into linear ones.
    no_task_gradient : ends of names of the tensors whose gradient from the task is 0, each with the reason.
    """

    config: AdapterConfig
    needs_grid = True
    encoder_class: type[TinyEncoder] = TinyEncoder
    random_start = True
    places: tuple[str, ...] = PLACES
    merges = False
    no_task_gradient: Mapping[str, str] = MappingProxyType({})

    def expected_count(self, layer: AdapterLayer) -> int:
        """The formula of the method's docstring at one site."""
        raise NotImplementedError  # abstract: each test class defines it

    def make(
        self, config: AdapterConfig | None = None, **kwargs: Any
    ) -> tuple[TinyEncoder, list[AdapterLayer]]:
        """See :func:`make`."""
        return make(config or self.config, encoder_class=self.encoder_class, **kwargs)

    def maps(self) -> Tensor:
        """Non-square maps, a multiple of the window: (2, 8, 12, 6)."""
        return torch.randn(2, 8, 12, CHANNELS, generator=torch.Generator().manual_seed(3)).double()

    def test_starts_as_the_frozen_encoder(self) -> None:
        encoder, layers = self.make()
        adapted = encoder(self.maps())
        for layer in layers:
            layer.enabled = False
        torch.testing.assert_close(adapted, encoder(self.maps()), rtol=0, atol=1e-12)

    def test_disabled_layers_are_the_frozen_encoder(self) -> None:
        encoder, layers = self.make(noise=0.3)
        bare = self.encoder_class().double().requires_grad_(False)
        trained = adapter_parameters(encoder)
        bare.load_state_dict(
            {k.replace("base.", ""): v for k, v in encoder.state_dict().items() if k not in trained}
        )
        assert not torch.allclose(encoder(self.maps()), bare(self.maps()))
        for layer in layers:
            layer.enabled = False
        assert torch.equal(encoder(self.maps()), bare(self.maps()))

    def test_count_is_the_formula(self) -> None:
        encoder, layers = self.make()
        expected = sum(self.expected_count(layer) for layer in layers)
        assert layers and count_parameters(encoder)["adapters"] == expected
        assert sum(value.numel() for value in adapter_state(encoder).values()) == expected

    def test_placement_chooses_blocks(self) -> None:
        for placement in ("last_1", "global"):
            encoder, layers = self.make(dataclasses.replace(self.config, placement=placement))
            assert all(layer.site.block == 1 for layer in layers)
            assert adapter_parameters(encoder)
            assert all(name.startswith("blocks.1.") for name in adapter_parameters(encoder))

    def test_merging_is_exact_or_refused(self) -> None:
        encoder, layers = self.make(noise=0.3)
        encoder.eval()
        expected = encoder(self.maps())
        if not self.merges:
            with pytest.raises(ConfigError, match="can't be merged"):
                merge_adapters(encoder)
            assert torch.equal(encoder(self.maps()), expected)
            return
        assert merge_adapters(encoder) == len(layers)
        assert not any(isinstance(module, AdapterLayer) for module in encoder.modules())
        assert not any(p.requires_grad for p in encoder.parameters())
        torch.testing.assert_close(encoder(self.maps()), expected, rtol=0, atol=1e-11)

    def test_only_the_adapters_train(self) -> None:
        encoder, _ = self.make()
        training = {name for name, p in encoder.named_parameters() if p.requires_grad}
        assert training == set(adapter_parameters(encoder))

    def test_every_trainable_tensor_has_a_gradient_from_the_task_alone(self) -> None:
        """And none is 0 after three small steps, but those of :attr:`no_task_gradient`."""
        encoder, _ = self.make()
        sizes: dict[str, float] = {}
        for _ in range(3):
            encoder.zero_grad()
            encoder(self.maps()).square().mean().backward()
            for name, parameter in adapter_parameters(encoder).items():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                largest = parameter.grad.abs().max().clamp(min=DEAD)
                sizes[name] = float(largest)
                parameter.data -= 0.01 * parameter.grad / largest
        dead = {name for name, size in sizes.items() if size <= DEAD}
        exempt = {name for name in sizes if name.endswith(tuple(self.no_task_gradient))}
        assert dead == exempt, f"without a gradient: {sorted(dead)}; expected: {sorted(exempt)}"

    def test_seed_alone_decides_the_start(self) -> None:
        first = adapter_state(self.make(seed=5)[0])
        torch.manual_seed(99)
        again = adapter_state(self.make(seed=5)[0])
        other = adapter_state(self.make(seed=6)[0])
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first) == self.random_start

    def test_state_round_trip_is_exact(self) -> None:
        source, _ = self.make(noise=0.3)
        target, _ = self.make(seed=8)
        load_adapter_state(target, adapter_state(source))
        assert torch.equal(source.eval()(self.maps()), target.eval()(self.maps()))

    def test_evaluation_is_deterministic_and_has_no_auxiliary_loss(self) -> None:
        encoder, layers = self.make(noise=0.3)
        encoder.eval()
        assert torch.equal(encoder(self.maps()), encoder(self.maps()))
        assert all(layer.aux_loss is None for layer in layers)
        assert float(collect_balance_loss(layers)) == 0.0

    def test_one_picture_does_not_see_another(self) -> None:
        encoder, _ = self.make(noise=0.3)
        encoder.eval()
        x = self.maps()
        torch.testing.assert_close(encoder(x)[1:], encoder(x[1:]), rtol=0, atol=1e-12)

    def test_tokens_without_a_grid(self) -> None:
        encoder, _ = self.make(noise=0.3)
        x = self.maps()
        if self.needs_grid:
            with pytest.raises(ConfigError, match="grid"):
                encoder(x.flatten(1, 2))
        else:
            torch.testing.assert_close(encoder(x.flatten(1, 2)), encoder(x).flatten(1, 2), rtol=0, atol=1e-12)

    def test_copy_and_backward_twice(self) -> None:
        encoder, _ = self.make(noise=0.3)
        encoder(self.maps()).sum().backward()
        twin = copy.deepcopy(encoder)
        twin(self.maps()).sum().backward()

    def test_bfloat16_autocast(self) -> None:
        encoder, _ = self.make(noise=0.1)
        encoder.float().eval()
        x = self.maps().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = encoder(x)
        low.float().sum().backward()
        torch.testing.assert_close(low.float(), encoder(x), rtol=0.1, atol=0.15)

    @pytest.mark.parametrize("target", PLACES)
    def test_targets_choose_places(self, target: str) -> None:
        config = dataclasses.replace(self.config, targets=(target,))
        if target not in self.places:
            with pytest.raises(ConfigError, match="targets"):
                make(config, encoder_class=TinyBlocks)
            return
        encoder, layers = make(config, encoder_class=TinyBlocks, noise=0.3)
        kind = "qkv" if target in QKV else target
        assert layers and {layer.site.kind for layer in layers} == {kind}
        encoder(self.maps()).sum().backward()
        assert all(p.grad is not None for p in adapter_parameters(encoder).values())

    @pytest.mark.parametrize("layout", ["qkv", "per_head_qkv"])
    def test_rows_of_other_targets_stay_frozen(self, layout: str) -> None:
        if "q" not in self.places:
            pytest.skip(f"{self.config.adapter} has no rows of q, k and v to choose from")
        _, layers = self.make(dataclasses.replace(self.config, targets=("q", "v")), layout=layout, noise=0.3)
        x = self.maps()
        layers = [layer for layer in layers if layer.site.kind == "qkv"]
        assert layers
        for layer in layers:
            change = layer(x) - layer.base(x)
            k = layer.site.rows("k")
            assert not change[..., k].any()
            assert change[..., layer.site.rows("q")].abs().sum() > 0
            assert change[..., layer.site.rows("v")].abs().sum() > 0
