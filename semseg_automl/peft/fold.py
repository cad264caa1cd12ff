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


def replicate_pad(z: Tensor) -> Tensor:
    """(N, h, w, r) -> (N, h+2, w+2, r), border repeated."""
    if _tracing():
        z = torch.cat([z[:, :1], z, z[:, -1:]], dim=1)
        return torch.cat([z[:, :, :1], z, z[:, :, -1:]], dim=2)
    return _ReplicatePad.apply(z)


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
        taps = [padded[:, t // 3 : t // 3 + h - 2, t % 3 : t % 3 + w - 2] for t in range(TAPS)]
        patches = torch.cat(taps, dim=-1).reshape(n, (h - 2) * (w - 2), -1)
        return torch.baddbmm(bias.unsqueeze(1), patches, kernels).reshape(n, h - 2, w - 2, -1)
    return _ConvValid.apply(padded, kernels.to(padded.dtype), bias.to(padded.dtype))


def _tracing() -> bool:
    """Whether an exporter watches: hand-written autograd functions are opaque to it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _patches(padded: Tensor) -> Tensor:
    """(N, h+2, w+2, r) -> (N, h*w, 9*r): one copy, in runs of 3*r contiguous numbers."""
    padded = padded.contiguous()
    n, h, w, r = padded.shape
    sample, row, column, _ = padded.stride()
    view = padded.as_strided((n, h - 2, w - 2, 3, 3 * r), (sample, row, column, row, 1))
    return view.reshape(n, (h - 2) * (w - 2), TAPS * r)


class _ReplicatePad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        n, h, w, r = z.shape
        out = z.new_empty(n, h + 2, w + 2, r)
        out[:, 1:-1, 1:-1] = z
        out[:, 0, 1:-1], out[:, -1, 1:-1] = z[:, 0], z[:, -1]
        out[:, :, 0], out[:, :, -1] = out[:, :, 1], out[:, :, -2]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        grad[:, :, 1] += grad[:, :, 0]
        grad[:, :, -2] += grad[:, :, -1]
        grad[:, 1] += grad[:, 0]
        grad[:, -2] += grad[:, -1]
        return grad[:, 1:-1, 1:-1]


class _ConvValid(torch.autograd.Function):
    """Patches times kernel matrix, forward and backward; torch's grouped convolutions need NCHW copies."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        n, h, w, _ = padded.shape
        with torch.autocast(padded.device.type, enabled=False):
            patches = _patches(padded)
            ctx.save_for_backward(patches, kernels)
            ctx.shape = padded.shape
            out = torch.baddbmm(bias.unsqueeze(1), patches, kernels)
        return out.view(n, h - 2, w - 2, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        patches, kernels = ctx.saved_tensors
        n, h, w, r_in = ctx.shape
        r_out = grad.shape[-1]
        flat = grad.reshape(n, -1, r_out)  # (N, h, w, r_out) -> (N, h*w, r_out)
        grad_padded = None
        if ctx.needs_input_grad[0]:  # the adjoint: a full correlation with the flipped kernel
            border = grad.new_zeros(n, h + 2, w + 2, r_out)
            border[:, 2:-2, 2:-2] = grad
            flipped = kernels.view(n, TAPS, r_in, r_out).flip(1).transpose(2, 3)
            flipped = flipped.reshape(n, TAPS * r_out, r_in)
            grad_padded = torch.bmm(_patches(border), flipped).view(n, h, w, r_in)
        return grad_padded, torch.bmm(patches.transpose(1, 2), flat), flat.sum(1)
