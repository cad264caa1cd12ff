"""SAM's two-way transformer: a few tokens and a picture's map attend to each other.

Source: Kirillov et al., "Segment Anything", 2023, appendix A (mask decoder). Parameters are named as in the
published files; a test holds the numbers against the package ``segment_anything``, which is not used here:
importing it brings in torchvision, of which nothing else is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NARROW = 2
"""Attention between tokens and map runs at the width divided by this."""


class TwoWayTransformer(nn.Module):
    """Blocks of attention among tokens, tokens to map and map to tokens; then once more tokens to map.

    Parameters
    ----------
    depth : number of blocks (SAM: 2).
    embedding_dim : width C of tokens and map, a multiple of ``2 * num_heads``.
    num_heads, mlp_dim : of each block (SAM: 8 and 2048).
    """

    def __init__(self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(embedding_dim, num_heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, embedding_dim // _NARROW)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Parameters
        ----------
        image : (B, C, h, w).
        positions : (1 or B, C, h, w), added to the map wherever it is compared with tokens.
        tokens : (B, T, C), which are their own positions.

        Returns
        -------
        tokens (B, T, C), map (B, h*w, C).
        """
        keys, places = (x.flatten(2).permute(0, 2, 1) for x in (image, positions))  # -> (B, h*w, C)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, places)
        found = self.final_attn_token_to_image(queries + tokens, keys + places, keys)
        return self.norm_final_attn(queries + found), keys


class TwoWayBlock(nn.Module):
    """Attention among tokens, from tokens to the map, an MLP on tokens, attention from the map to tokens.

    Each is added to what it was given and normalised; but the ``first`` block's attention among
    tokens stands alone and without positions, since tokens are nothing else yet.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // _NARROW)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // _NARROW)

    def forward(self, queries: Tensor, keys: Tensor, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) and map (B, h*w, C), and the positions of both -> tokens, map."""
        if self.first:
            queries = self.self_attn(queries, queries, queries)
        else:
            placed = queries + tokens
            queries = queries + self.self_attn(placed, placed, queries)
        queries = self.norm1(queries)
        queries = queries + self.cross_attn_token_to_image(queries + tokens, keys + places, keys)
        queries = self.norm2(queries)
        queries = self.norm3(queries + self.mlp(queries))
        keys = keys + self.cross_attn_image_to_token(keys + places, queries + tokens, queries)
        return queries, self.norm4(keys)


class Mlp(nn.Module):
    """Two-layer perceptron with ReLU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        return self.lin2(F.relu(self.lin1(x)))


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than that of its input."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, N, C), keys and values (B, M, C) -> (B, N, C)."""
        q, k, v = (self._split(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        weights = torch.softmax(q @ k.permute(0, 1, 3, 2) / math.sqrt(q.shape[-1]), dim=-1)
        joined = (weights @ v).transpose(1, 2)  # (B, heads, N, d) -> (B, N, heads, d)
        return self.out_proj(joined.reshape(joined.shape[0], joined.shape[1], -1))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, heads * d) -> (B, heads, N, d)."""
        b, n, c = x.shape
        return x.reshape(b, n, self.heads, c // self.heads).transpose(1, 2)
