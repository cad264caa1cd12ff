"""Window attention against torch's own kernel, forward and backward, and under autocast."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from semseg_automl.models.build import SAM_TINY
from semseg_automl.models.encoders.attention import biased_attention
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder


@pytest.mark.parametrize("tokens", [9, 300])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_equal_torchs(tokens: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, tokens, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 2, tokens, tokens, dtype=torch.float64, requires_grad=True) if with_bias else None
    inputs = [t for t in (q, k, v, bias) if t is not None]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    found = biased_attention(q, k, v, bias)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)  # softmax is in float32
    wanted = torch.autograd.grad(expected, inputs, grad)
    for a, b in zip(torch.autograd.grad(found, inputs, grad), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_no_graph_gives_the_same_numbers() -> None:
    q, k, v = torch.randn(3, 2, 2, 9, 4).requires_grad_().unbind(0)
    with torch.no_grad():
        expected = biased_attention(q, k, v, None)
    assert torch.equal(biased_attention(q, k, v, None), expected)


def test_bfloat16_autocast_stays_close_and_trains() -> None:
    torch.manual_seed(0)
    encoder, images = TinyViTEncoder(SAM_TINY), torch.randn(2, 3, 48, 64)
    expected = encoder(images).embedding
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(images).embedding
    difference = (found.float() - expected).detach().abs().mean()
    assert float(difference) < 0.03 * float(expected.detach().std())
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
