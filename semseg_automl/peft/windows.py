"""Cutting a token map into attention windows and putting it together again."""

from __future__ import annotations

from torch import Tensor


def partition_windows(z: Tensor, size: int) -> Tensor:
    """(N, h, w, r) -> (N*nW, size, size, r), windows row by row; h and w are multiples of ``size``."""
    n, h, w, r = z.shape
    tiles = z.view(n, h // size, size, w // size, size, r)
    return tiles.transpose(2, 3).reshape(-1, size, size, r)


def merge_windows(windows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Inverse of :func:`partition_windows`: (N*nW, size, size, r) -> (N, h, w, r)."""
    size, r = windows.shape[1], windows.shape[-1]
    h, w = shape
    tiles = windows.view(-1, h // size, w // size, size, size, r)
    return tiles.transpose(2, 3).reshape(-1, h, w, r)


def halo_windows(padded: Tensor, size: int) -> Tensor:
    """(N, h+2, w+2, r) -> (N*nW, size+2, size+2, r): every window with one ring of its neighbours."""
    tiles = padded.unfold(1, size + 2, size).unfold(2, size + 2, size)  # (N, h/s, w/s, r, s+2, s+2)
    return tiles.permute(0, 1, 2, 4, 5, 3).reshape(-1, size + 2, size + 2, padded.shape[-1])
