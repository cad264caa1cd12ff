"""Every adapter gives on CUDA what it gives on a CPU: logits, loss and all gradients, in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.registry import ADAPTERS
from tests.gpu.networks import CUDA, assert_same, batch_of, make_network, step_on

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_float32")]

SMALL = {"rank": 4, "num_experts": 3}
CONFIGS: dict[str, AdapterConfig] = {
    **{name: AdapterConfig(adapter=name, **SMALL) for name in ADAPTERS},
    "conv_lora learned": AdapterConfig(routing="learned", **SMALL),
    "conv_lora compat": AdapterConfig(routing="compat", **SMALL),
    "conv_lora gelu": AdapterConfig(nonlinearity="gelu", **SMALL),
    "conv_lora windows": AdapterConfig(gate_scope="window", window_padding="window", **SMALL),
    "conv_lora separate": AdapterConfig(qkv="separate", targets=("q", "v", "mlp"), **SMALL),
}
SIZES = [(64, 112), (96, 80)]
"""Neither square nor whole numbers of windows."""


@pytest.fixture(autouse=True)
def _same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gates' noise from one seed on every device: numbers of its size, always the same."""

    def noise(like: Tensor) -> Tensor:
        seed = torch.Generator().manual_seed(like.numel())
        return torch.randn(like.shape, generator=seed).to(like)

    monkeypatch.setattr("semseg_automl.peft.gate.torch.randn_like", noise)


@pytest.mark.parametrize("family", ["sam_tiny", "sam_vit"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_small_network(name: str, family: str) -> None:
    network = make_network(family, CONFIGS[name])
    for size in SIZES:
        batch = batch_of(size)
        assert_same(step_on(network, batch, CUDA), step_on(network, batch, "cpu"))


@pytest.mark.weights
@pytest.mark.parametrize("name", CONFIGS)
def test_mobile_sam(name: str) -> None:
    network, batch = make_network("mobile_sam", CONFIGS[name]), batch_of((192, 256), count=1)
    assert_same(step_on(network, batch, CUDA), step_on(network, batch, "cpu"))


@pytest.mark.parametrize("family", ["sam_tiny", "sam_vit"])
@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16(name: str, family: str) -> None:
    """Autocast runs in every method, gives finite gradients and stays near float32."""
    network, batch = make_network(family, CONFIGS[name]), batch_of(SIZES[0])
    exact = step_on(network, batch, CUDA)
    rough = step_on(network, batch, CUDA, torch.bfloat16)
    assert all(g.isfinite().all() for g in rough.gradients.values())
    assert float((rough.logits - exact.logits).abs().mean()) < 0.05 * float(exact.logits.std())


@pytest.mark.parametrize("family", ["sam_tiny", "sam_vit"])
@pytest.mark.parametrize("name", ["lora", "conv_lora", "conv_lora gelu", "full"])
def test_gradient_checkpointing_changes_no_number(name: str, family: str) -> None:
    network, batch = make_network(family, CONFIGS[name]), batch_of(SIZES[0])
    expected = step_on(network, batch, CUDA)
    network.encoder.gradient_checkpointing = True
    assert_same(step_on(network, batch, CUDA), expected, relative=1e-5)
