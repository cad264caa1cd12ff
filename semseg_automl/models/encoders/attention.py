"""Attention within small windows, with an additive bias, laid out for CPUs.

torch's fused kernel is made for long sequences: on windows of 49 or 196 tokens its bfloat16 backward
pass takes several times as long as plain matrix products do (measured on an AVX512-BF16 machine, torch
2.14). Here scores and softmax are formed in the open and only the probabilities are kept for the
backward pass. On other devices, and for long sequences, the fused kernel is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.peft.tracing import is_traced

_SMALL = 256  # tokens up to which probabilities are formed in memory


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Parameters
    ----------
    q, k, v : (B, heads, N, d), one floating dtype, contiguous.
    bias : (1, heads, N, N) or None.

    Returns
    -------
    Tensor
        (B, heads, N, d) in the dtype of ``v``. Softmax is taken in float32.
    """
    if is_traced():
        return _attend(q, k, v, bias)[0]
    if q.device.type != "cpu" or q.shape[2] > _SMALL:
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    tensors = (q, k, v) if bias is None else (q, k, v, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        result: Tensor = _OpenAttention.apply(q, k, v, bias)
        return result
    return _attend(q, k, v, bias)[0]


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (B, heads, N, d) and probabilities (B, heads, N, N) in the dtype of ``q``."""
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.matmul(q, k.transpose(-2, -1)).float().mul_(q.shape[-1] ** -0.5)
        if bias is not None:
            scores = scores.add_(bias)
        probabilities = scores.softmax(-1).to(q.dtype)
        return torch.matmul(probabilities, v), probabilities


class _OpenAttention(torch.autograd.Function):
    """:func:`_attend` with its backward pass written out: no other (N, N) map is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Attend."""
        out, probabilities = _attend(q, k, v, bias)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of q, k, v and, where it is trained, of the bias."""
        q, k, v, p = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            grad = grad.to(p.dtype)
            grad_v = torch.matmul(p.transpose(-2, -1), grad)
            grad_scores = torch.ops.aten._softmax_backward_data(
                torch.matmul(grad, v.transpose(-2, -1)), p, -1, p.dtype
            )
            scale = q.shape[-1] ** -0.5
            grad_q = torch.matmul(grad_scores, k).mul_(scale)
            grad_k = torch.matmul(grad_scores.transpose(-2, -1), q).mul_(scale)
            grad_bias = None
            if ctx.needs_input_grad[3]:
                grad_bias = grad_scores.sum(0, keepdim=True, dtype=torch.float32).to(ctx.bias_dtype)
        return grad_q, grad_k, grad_v, grad_bias
