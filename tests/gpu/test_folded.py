"""Folded experts on CUDA against interpolate, convolve, interpolate there; and under autocast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.experts import expert
from semseg_automl.peft.fold import conv_valid, fold_matrices, mix_kernels, replicate_pad
from semseg_automl.peft.fold_gelu import folded_expert, is_exact
from tests.contracts.adapter_contract import CHANNELS, TinyEncoder
from tests.gpu.networks import CUDA
from tests.unit.peft.test_fold import written_out

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_float32")]
R, SCALES = 8, (1, 2, 3, 4, 8)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(CUDA)


def close(found: Tensor, expected: Tensor, relative: float = 1e-4) -> None:
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=relative * largest)


def test_a_mixture_equals_the_written_out_experts() -> None:
    """z + sum_e w_e E_e(z) and all gradients, each picture with its own weights."""
    z, weights = drawn(2, 21, 13, R), drawn(2, 1, 1, len(SCALES)).softmax(-1)
    kernels, bias = 0.2 * drawn(1, len(SCALES), R, R, 3, 3), drawn(1, len(SCALES), R)
    inputs = [t.requires_grad_() for t in (z, weights, kernels, bias)]
    mixed, shift = mix_kernels(kernels, bias, weights, fold_matrices(SCALES).to(z))
    found = conv_valid(replicate_pad(z), mixed[:, 0], shift[:, 0])
    expected = z
    for e, scale in enumerate(SCALES):
        expected = expected + weights[..., e : e + 1] * written_out(z, kernels[0, e], bias[0, e], scale)
    close(found, expected)
    probe = drawn(*found.shape)
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    for mine, theirs in zip(torch.autograd.grad((found * probe).sum(), inputs), wanted, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("compat", [False, True], ids=["bilinear", "compat"])
def test_experts_with_a_gelu(compat: bool) -> None:
    for scale in SCALES:
        if is_exact(scale, compat=compat):
            inputs = (drawn(3, 14, 14, R), 0.2 * drawn(R, R, 3, 3), drawn(R))
            found = folded_expert(*inputs, scale, compat=compat)
            close(found, expert(*inputs, scale, compat=compat))


@pytest.mark.parametrize(
    "changes", [{}, {"routing": "dense"}, {"nonlinearity": "gelu"}, {"gate_scope": "window"}], ids=str
)
def test_layers_under_autocast(changes: dict[str, str]) -> None:
    """A layer in bfloat16 against its float64 form on the same values; its gradients are finite."""
    from semseg_automl.peft.inject import inject

    torch.manual_seed(0)
    encoder = TinyEncoder()
    layers = inject(encoder, encoder.sites(), AdapterConfig(num_experts=4, rank=4, **changes))  # type: ignore[arg-type]
    for layer in layers:
        layer.up.data.normal_(std=0.2)
    layer = layers[0].to(CUDA).eval()
    x = drawn(2, 8, 12, CHANNELS)
    exact = copy.deepcopy(layer).double()(x.double())
    with torch.autocast(CUDA.type, torch.bfloat16):
        rough = layer(x)
    assert rough.dtype == torch.bfloat16
    assert float((rough - exact).detach().abs().mean()) < 0.02 * float(exact.detach().std())
    rough.float().square().sum().backward()
    for name, parameter in layer.trainable_parameters():
        if name != "gate.noise":  # which is for training alone
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
