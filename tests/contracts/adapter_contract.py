"""What every adapter method must keep to: inherit from AdapterContract and set ``config``."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import AdapterLayer, Site
from semseg_automl.peft.inject import collect_balance_loss, inject
from semseg_automl.peft.state import adapter_parameters, adapter_state, load_adapter_state

HEADS, HEAD_DIM, WINDOW = 2, 3, 4
CHANNELS = HEADS * HEAD_DIM


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


def make(
    config: AdapterConfig, *, seed: int = 0, layout: str = "qkv", noise: float = 0.0
) -> tuple[TinyEncoder, list[AdapterLayer]]:
    """A float64 encoder with adapters; ``noise`` > 0 moves every trainable value off its start."""
    torch.manual_seed(1)
    encoder = TinyEncoder(layout).double()
    layers = inject(encoder, encoder.sites(), config, seed)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter_parameters(encoder).values():
        shift = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += noise * shift
    return encoder, layers


class AdapterContract:
    """Subclasses set ``config``; with ``needs_grid`` False the method also takes (B, N, C)."""

    config: AdapterConfig
    needs_grid = True

    def maps(self) -> Tensor:
        """Non-square maps, a multiple of the window: (2, 8, 12, 6)."""
        return torch.randn(2, 8, 12, CHANNELS, generator=torch.Generator().manual_seed(3)).double()

    def test_starts_as_the_frozen_encoder(self) -> None:
        encoder, layers = make(self.config)
        adapted = encoder(self.maps())
        for layer in layers:
            layer.enabled = False
        torch.testing.assert_close(adapted, encoder(self.maps()), rtol=0, atol=1e-12)

    def test_disabled_layers_are_the_frozen_encoder(self) -> None:
        encoder, layers = make(self.config, noise=0.3)
        bare = TinyEncoder().double()
        bare.load_state_dict(
            {
                k.replace("base.", ""): v
                for k, v in encoder.state_dict().items()
                if "neck" in k or "base." in k
            }
        )
        assert not torch.allclose(encoder(self.maps()), bare(self.maps()))
        for layer in layers:
            layer.enabled = False
        assert torch.equal(encoder(self.maps()), bare(self.maps()))

    def test_only_the_adapters_train(self) -> None:
        encoder, _ = make(self.config)
        training = {name for name, p in encoder.named_parameters() if p.requires_grad}
        assert training == set(adapter_parameters(encoder))

    def test_every_trainable_tensor_has_a_gradient_from_the_task_alone(self) -> None:
        encoder, _ = make(self.config)
        for _ in range(3):
            encoder.zero_grad()
            encoder(self.maps()).square().mean().backward()
            for name, parameter in adapter_parameters(encoder).items():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                parameter.data -= 0.1 * parameter.grad

    def test_seed_alone_decides_the_start(self) -> None:
        first = adapter_state(make(self.config, seed=5)[0])
        torch.manual_seed(99)
        again = adapter_state(make(self.config, seed=5)[0])
        other = adapter_state(make(self.config, seed=6)[0])
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_state_round_trip_is_exact(self) -> None:
        source, _ = make(self.config, noise=0.3)
        target, _ = make(self.config, seed=8)
        load_adapter_state(target, adapter_state(source))
        assert torch.equal(source.eval()(self.maps()), target.eval()(self.maps()))

    def test_evaluation_is_deterministic_and_has_no_auxiliary_loss(self) -> None:
        encoder, layers = make(self.config, noise=0.3)
        encoder.eval()
        assert torch.equal(encoder(self.maps()), encoder(self.maps()))
        assert all(layer.aux_loss is None for layer in layers)
        assert float(collect_balance_loss(layers)) == 0.0

    def test_one_picture_does_not_see_another(self) -> None:
        encoder, _ = make(self.config, noise=0.3)
        encoder.eval()
        x = self.maps()
        torch.testing.assert_close(encoder(x)[1:], encoder(x[1:]), rtol=0, atol=1e-12)

    def test_tokens_without_a_grid(self) -> None:
        encoder, _ = make(self.config, noise=0.3)
        x = self.maps()
        if self.needs_grid:
            with pytest.raises(ConfigError, match="grid"):
                encoder(x.flatten(1, 2))
        else:
            torch.testing.assert_close(encoder(x.flatten(1, 2)), encoder(x).flatten(1, 2), rtol=0, atol=1e-12)

    def test_copy_and_backward_twice(self) -> None:
        encoder, _ = make(self.config, noise=0.3)
        encoder(self.maps()).sum().backward()
        twin = copy.deepcopy(encoder)
        twin(self.maps()).sum().backward()

    def test_bfloat16_autocast(self) -> None:
        encoder, _ = make(self.config, noise=0.1)
        encoder.float().eval()
        x = self.maps().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = encoder(x)
        low.float().sum().backward()
        torch.testing.assert_close(low.float(), encoder(x), rtol=0.1, atol=0.15)

    @pytest.mark.parametrize("layout", ["qkv", "per_head_qkv"])
    def test_rows_of_other_targets_stay_frozen(self, layout: str) -> None:
        _, layers = make(dataclasses.replace(self.config, targets=("q", "v")), layout=layout, noise=0.3)
        x = self.maps()
        for layer in layers:
            change = layer(x) - layer.base(x)
            k = layer.site.rows("k")
            assert not change[..., k].any()
            assert change[..., layer.site.rows("q")].abs().sum() > 0
            assert change[..., layer.site.rows("v")].abs().sum() > 0
