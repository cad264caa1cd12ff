"""Position tables at other sizes, in operations that every exporter knows.

``F.interpolate(mode="bicubic", antialias=True)``, which SAM and timm bring their tables to a picture's grid
with, has no counterpart in ONNX: here it is a product of two matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bicubic_matrix(old: int, new: int) -> Tensor:
    """Weights (new, old), float32, of antialiased bicubic interpolation along one axis.

    What ``F.interpolate(mode="bicubic", antialias=True)`` does (Keys' kernel with a = -0.5, widened where
    the axis shrinks), as a matrix of plain operations.
    """
    place = torch.arange(new, dtype=torch.float32) + 0.5
    step = old / place[-1:].add(0.5)  # not old / new: an exporter's sizes are no plain numbers
    reach = step.clamp(min=1.0)
    x = ((torch.arange(old, dtype=torch.float32) + 0.5)[None] - (place * step)[:, None]).abs() / reach
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return (weights / weights.sum(1, keepdim=True)).to(torch.float32)


def bicubic_table(table: Tensor, h: int, w: int) -> Tensor:
    """A table (1, g, g', C) brought to (1, h, w, C), antialiased bicubic; at its own size what it was."""
    rows, columns = (bicubic_matrix(old, new) for old, new in zip(table.shape[1:3], (h, w), strict=True))
    return torch.einsum("hy,wx,byxc->bhwc", rows, columns, table)
