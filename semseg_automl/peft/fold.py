"""Exact folding of multi-scale experts into one 3x3 convolution, and that convolution on (N, h, w, r) maps.

An expert of scale s upsamples by s, convolves 3x3 and downsamples again. With bilinear
interpolation (align_corners=False) and replicate padding of the upscaled map all three are
linear and local, and the whole equals one 3x3 convolution at native resolution with kernel
A_s K A_s^T. (Folding linear operators into a kernel: RepVGG, Diverse Branch Block; mixing
kernels for each sample: CondConv.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semseg_automl.peft.tracing import is_traced as _tracing

TAPS = 9


def scale_matrix(scale: int) -> Tensor:
    """A_s, float64 (3, 3): column j says where tap j of the upscaled kernel lands among the native taps."""
    s = float(scale)
    centre = (0.0, 1.0, 0.0) if scale % 2 else (1 / (4 * s), 1 - 1 / (2 * s), 1 / (4 * s))
    columns = [(1 / s, 1 - 1 / s, 0.0), centre, (0.0, 1 - 1 / s, 1 / s)]
    return torch.tensor(columns, dtype=torch.float64).t().contiguous()


def fold_matrices(scales: Sequence[int]) -> Tensor:
    """kron(A_s, A_s) for every scale, float64 (E, 9, 9): folds a flattened kernel."""
    return torch.stack([torch.kron(a, a) for a in map(scale_matrix, scales)])


def fold_kernels(kernels: Tensor, folds: Tensor) -> Tensor:
    """Native-resolution kernels A_s K A_s^T.

    Parameters
    ----------
    kernels : Tensor (..., E, r_out, r_in, 3, 3)
    folds : Tensor (E, 9, 9) of :func:`fold_matrices`

    Returns
    -------
    Tensor (..., E, 9*r_in, r_out), the layout of :func:`conv_valid`.
    """
    *lead, r_out, r_in, _, _ = kernels.shape
    flat = kernels.reshape(*lead, r_out * r_in, TAPS) @ folds.transpose(-1, -2)
    flat = flat.view(*lead, r_out, r_in, TAPS)  # (..., r_out, r_in, 9) -> (..., 9, r_in, r_out)
    return flat.transpose(-1, -3).reshape(*lead, TAPS * r_in, r_out)


def mix_kernels(kernels: Tensor, bias: Tensor, weights: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
    """One native kernel for each sample, branch and window: I + sum_i w_i fold(K_i), and sum_i w_i b_i.

    Parameters
    ----------
    kernels, bias : Tensor (G, E, r, r, 3, 3), (G, E, r)
    weights : Tensor (B, G, nW, E)
    folds : Tensor (E, 9, 9) of :func:`fold_matrices`

    Returns
    -------
    Tensor (B*G, nW, 9*r, r), Tensor (B*G, nW, r)
    """
    if _tracing():
        mixed, shift = _mix(fold_kernels(kernels, folds).flatten(2), bias, weights)
    else:
        mixed, shift = _MixKernels.apply(kernels, bias, weights, folds)
    b, g, n, _ = weights.shape
    r = bias.shape[-1]
    centre = (torch.arange(TAPS, device=mixed.device) == TAPS // 2).to(mixed.dtype)
    # nothing is written in place: an exporter would lose it
    identity = centre[:, None, None] * torch.eye(r, device=mixed.device, dtype=mixed.dtype)  # (9, r, r)
    mixed = mixed.view(b * g, n, TAPS * r, r) + identity.view(TAPS * r, r)
    return mixed, shift.view(b * g, n, r)


def _mix(folded: Tensor, bias: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels (B, G, nW, 9*r*r) and biases (B, G, nW, r) mixed by weights (B, G, nW, E)."""
    return weights @ folded, weights @ bias


def replicate_pad(z: Tensor, width: int = 1) -> Tensor:
    """(N, h, w, r) -> (N, h + 2 * width, w + 2 * width, r), border repeated."""
    if _tracing():
        z = torch.cat([z[:, :1]] * width + [z] + [z[:, -1:]] * width, dim=1)
        return torch.cat([z[:, :, :1]] * width + [z] + [z[:, :, -1:]] * width, dim=2)
    return _ReplicatePad.apply(z, width)


def conv_valid(padded: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution without padding, every sample with its own kernel.

    Parameters
    ----------
    padded : Tensor (N, h+2, w+2, r_in)
    kernels : Tensor (N, 9*r_in, r_out), taps row by row, then input channels
    bias : Tensor (N, r_out)

    Returns
    -------
    Tensor (N, h, w, r_out)
    """
    n, h, w, _ = padded.shape
    if _tracing():
        return torch.baddbmm(bias.unsqueeze(1), patches(padded), kernels).reshape(n, h - 2, w - 2, -1)
    return _ConvValid.apply(padded, kernels.to(padded.dtype), bias.to(padded.dtype))


def patches(padded: Tensor, side: int = 3) -> Tensor:
    """(N, h + side - 1, w + side - 1, r) -> (N, h*w, side*side*r): each pixel's neighbourhood, row by row."""
    if _tracing():
        n, h, w, _ = padded.shape
        h, w = h - side + 1, w - side + 1
        taps = [padded[:, y : y + h, x : x + w] for y in range(side) for x in range(side)]
        return torch.cat(taps, dim=-1).reshape(n, h * w, -1)
    return _Patches.apply(padded, side)


def _gather(padded: Tensor, side: int = 3) -> Tensor:
    """As :func:`patches`: one copy, in runs of side*r contiguous numbers."""
    padded = padded.contiguous()
    n, h, w, r = padded.shape
    h, w = h - side + 1, w - side + 1
    sample, row, column, _ = padded.stride()
    view = padded.as_strided((n, h, w, side, side * r), (sample, row, column, row, 1))
    return view.reshape(n, h * w, side * side * r)


class _MixKernels(torch.autograd.Function):
    """Fold and mix in one node: the tensors are small, so the number of operations is what costs."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Tensor, bias: Tensor, weights: Tensor, folds: Tensor
    ) -> tuple[Tensor, Tensor]:
        folded = fold_kernels(kernels, folds).flatten(2)  # (G, E, 9*r_in*r_out)
        ctx.save_for_backward(folded, bias, weights, folds)
        return _mix(folded, bias, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
        folded, bias, weights, folds = ctx.saved_tensors
        (g, e, r), w = bias.shape, weights.shape[2]
        grad_weights = None
        if ctx.needs_input_grad[2]:
            grad_weights = grad @ folded.transpose(1, 2) + grad_shift @ bias.transpose(1, 2)
        # (B, G, nW, x) -> (G, B*nW, x)
        by_branch = [t.transpose(0, 1).reshape(g, len(weights) * w, -1) for t in (weights, grad, grad_shift)]
        mixing = by_branch[0].transpose(1, 2)
        grad_folded = (mixing @ by_branch[1]).view(g, e, TAPS, r, r).transpose(2, 4)  # (..., r_out, r_in, 9)
        grad_kernels = grad_folded.reshape(g, e, r * r, TAPS) @ folds
        return grad_kernels.view(g, e, r, r, 3, 3), mixing @ by_branch[2], grad_weights, None


class _Patches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: Tensor, side: int) -> Tensor:
        ctx.shape, ctx.side = padded.shape, side
        return _gather(padded, side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        n, h, w, r = ctx.shape
        side = ctx.side
        h, w = h - side + 1, w - side + 1
        grad = grad.reshape(n, h, w, side, side, r)  # from (n, h*w, side*side*r)
        out = grad.new_zeros(ctx.shape)
        for y in range(side):
            for x in range(side):
                out[:, y : y + h, x : x + w] += grad[:, :, :, y, x]
        return out, None


class _ReplicatePad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, width: int) -> Tensor:
        n, h, w, r = z.shape
        ctx.width = width
        out = z.new_empty(n, h + 2 * width, w + 2 * width, r)
        out[:, width:-width, width:-width] = z
        out[:, :width, width:-width] = z[:, :1]
        out[:, -width:, width:-width] = z[:, -1:]
        out[:, :, :width] = out[:, :, width : width + 1]
        out[:, :, -width:] = out[:, :, -width - 1 : -width]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        k = ctx.width
        grad = grad.clone()
        for edge in range(k):
            grad[:, :, k] += grad[:, :, edge]
            grad[:, :, -k - 1] += grad[:, :, -edge - 1]
        for edge in range(k):
            grad[:, k] += grad[:, edge]
            grad[:, -k - 1] += grad[:, -edge - 1]
        return grad[:, k:-k, k:-k], None


class _ConvValid(torch.autograd.Function):
    """Patches times kernel matrix, forward and backward; torch's grouped convolutions need NCHW copies."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        n, h, w, _ = padded.shape
        with torch.autocast(padded.device.type, enabled=False):
            gathered = _gather(padded)
            ctx.save_for_backward(gathered, kernels)
            ctx.shape = padded.shape
            out = torch.baddbmm(bias.unsqueeze(1), gathered, kernels)
        return out.view(n, h - 2, w - 2, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gathered, kernels = ctx.saved_tensors
        n, h, w, r_in = ctx.shape
        r_out = grad.shape[-1]
        flat = grad.reshape(n, -1, r_out)  # (N, h, w, r_out) -> (N, h*w, r_out)
        grad_padded = None
        if ctx.needs_input_grad[0]:  # the adjoint: a full correlation with the flipped kernel
            border = grad.new_zeros(n, h + 2, w + 2, r_out)
            border[:, 2:-2, 2:-2] = grad
            flipped = kernels.view(n, TAPS, r_in, r_out).flip(1).transpose(2, 3)
            flipped = flipped.reshape(n, TAPS * r_out, r_in)
            grad_padded = torch.bmm(_gather(border), flipped).view(n, h, w, r_in)
        return grad_padded, torch.bmm(gathered.transpose(1, 2), flat), flat.sum(1)
