"""Ladder side-tuning (Sung, Cho, Bansal, "LST: Ladder Side-Tuning", NeurIPS 2022) with a ViT-Tiny.

The encoder's blocks run without a graph. A small ViT (Touvron et al., 2021: 12 blocks of width 192, 3 heads)
sees the picture through its own patches, and its blocks, in T groups, are fed from T rungs of the encoder:
before group j

    g <- m_j (D_j f_j + d_j) + (1 - m_j) g,   m_j = sigmoid(a_j / 0.1),   a_j from 0

(the paper's gate with its temperature), f_j the output of the j-th global block. An encoder without global
blocks is tapped at the last block of each width. The result is  embedding + U LayerNorm(g) + u.

Group j = 0..T - 1 is the side network's blocks from floor(12 j / T) to before floor(12 (j + 1) / T), so that
sizes differ by one where T doesn't divide 12. With more than 12 rungs some groups are empty, and their rung
is mixed with the next one before a block sees it. All blocks of a timm ViT are global, so T is its depth:
ViT-L has 24 rungs, two before each of the 12 blocks.

Deliberate differences from the papers: the encoder's own embedding stays in the sum and U, u start at 0,
so that the start is the frozen encoder (there the side network's output stands alone); the side network
starts from the picture, as a ViT-Tiny does, instead of from the encoder's embedding, and without
a class token; it attends over the whole map. The Conv-LoRA paper starts it from pretrained ViT-Tiny weights:
give a file of those (timm's names) as ``side_checkpoint``, else it is random, and a warning says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import WeightsError
from semseg_automl.peft.base import Site, kaiming_uniform
from semseg_automl.peft.companion import Companion, Guide, Outline, block_widths, pool_to
from semseg_automl.peft.tracing import is_traced

TEMPERATURE = 0.1
_POSITION_SIDE = 14  # of the position table, as ViT-Tiny's for 224 pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class SideSize:
    """Width, blocks and heads of the side network; its MLPs have four times the width."""

    dim: int = 192
    depth: int = 12
    heads: int = 3


VIT_TINY = SideSize()


class SideBlock(nn.Module):
    """Pre-norm transformer block with global attention; timm's parameter names."""

    def __init__(self, size: SideSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(size.dim, eps=1e-6), nn.LayerNorm(size.dim, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(size.dim, 3 * size.dim), "proj": nn.Linear(size.dim, size.dim)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(size.dim, 4 * size.dim), "fc2": nn.Linear(4 * size.dim, size.dim)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> the same shape."""
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, d)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, C)
        x = x + self.attn["proj"](out)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class LadderSide(Companion):
    """See the module.

    Trainable, with width D = 192, L = 12 blocks, stride s, a rung's width C_j and an embedding of E channels:
    3 s^2 D + D + 196 D + L (12 D^2 + 13 D) + 2 D + sum_j (C_j D + D + 1) + D E + E, which is about 5.5
    million beside the rungs. ``rank`` and ``alpha`` have no effect. No activation of the encoder is kept for
    the backward pass.

    Attributes
    ----------
    taps : tuple of int
        Numbers of the blocks whose inputs are read (number of blocks: the last one's output).
    patch_embed, pos_embed, blocks, norm : the ViT-Tiny, with timm's names.
    down, gates, up : the rungs D_j, the a_j, and U.
    """

    no_merge = "it is a network of its own beside the encoder"

    def __init__(self, taps: dict[int, int], outline: Outline, size: SideSize, generator: torch.Generator):
        super().__init__()
        self.taps, self.depth = tuple(taps), size.depth
        dim, stride = size.dim, outline.stride
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, kernel_size=stride, stride=stride)})
        self.pos_embed = nn.Parameter(torch.zeros(1, _POSITION_SIDE**2, dim))
        self.blocks = nn.ModuleList([SideBlock(size) for _ in range(size.depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.down = nn.ModuleList([nn.Linear(width, dim) for width in taps.values()])
        self.gates = nn.Parameter(torch.zeros(len(taps)))
        self.up = nn.Linear(dim, outline.embed_dim)
        self._start(generator)

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        """Matrices uniform by their inputs, positions normal (0.02), vectors 0 or 1, U 0."""
        for name, parameter in self.named_parameters():
            if name == "pos_embed":
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            elif parameter.dim() >= 2:
                fan_in = parameter[0].numel()
                parameter.copy_(kaiming_uniform(tuple(parameter.shape), generator, fan_in=fan_in))
            elif name.endswith("bias"):
                parameter.zero_()
        self.up.weight.zero_()

    def load_side(self, tensors: Mapping[str, Tensor]) -> None:
        """Start from a plain ViT-Tiny with timm's names; its class token and classifier are left out.

        Raises
        ------
        WeightsError
            A tensor is missing or has another shape.
        """
        own = {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.split(".")[0] in ("patch_embed", "pos_embed", "blocks", "norm")
        }
        given = {name: tensors[name] for name in own if name in tensors}
        if "pos_embed" in given and given["pos_embed"].shape[1] == own["pos_embed"].shape[1] + 1:
            given["pos_embed"] = given["pos_embed"][:, 1:]  # the class token's
        wrong = [name for name in own if name not in given or given[name].shape != own[name].shape]
        if wrong:
            raise WeightsError(
                f"side_checkpoint: of {len(own)} tensors, {len(wrong)} are missing or of another shape "
                f"(first: {wrong[0]}, needed {tuple(own[wrong[0]].shape)}). It must hold timm's "
                "vit_tiny_patch16_224 or its like."
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(given[name])

    def positions(self, h: int, w: int) -> Tensor:
        """Position table for an h x w grid: (1, h*w, C), bicubic where the size differs."""
        table = self.pos_embed.unflatten(1, (_POSITION_SIDE, -1)).permute(0, 3, 1, 2)  # (1, C, 14, 14)
        if is_traced() or (h, w) != tuple(table.shape[2:]):
            table = F.interpolate(table, size=(h, w), mode="bicubic", align_corners=False)
        return table.flatten(2).transpose(1, 2)

    def forward(self, images: Tensor, stem: Tensor, run: Callable[[Guide], Any]) -> Any:
        """See :meth:`Companion.forward`."""
        seen: dict[int, Tensor] = {}

        def look(block: int, x: Tensor) -> Tensor:
            if block in self.taps:
                seen[block] = x
            return x

        out = run(look)  # frozen blocks on a picture: nothing here needs a gradient, so nothing is recorded
        return dataclasses.replace(out, embedding=out.embedding + self.climb(images, seen, out.embedding))

    def climb(self, images: Tensor, seen: Mapping[int, Tensor], embedding: Tensor) -> Tensor:
        """What the side network adds to the embedding (B, E, h, w), from the maps it has seen."""
        g = self.patch_embed["proj"](images)
        h, w = embedding.shape[2:]
        g = g.flatten(2).transpose(1, 2) + self.positions(h, w)  # (B, D, h, w) -> (B, h*w, D)
        shares = torch.sigmoid(self.gates / TEMPERATURE)
        ends = [self.depth * (j + 1) // len(self.taps) for j in range(len(self.taps))]
        start = 0
        for j, (tap, end) in enumerate(zip(self.taps, ends, strict=True)):
            rung = seen[tap].permute(0, 3, 1, 2)  # (B, h', w', C) -> (B, C, h', w')
            if tuple(rung.shape[2:]) != (h, w):
                rung = pool_to(rung, (h, w))
            rung = self.down[j](rung.flatten(2).transpose(1, 2))
            g = shares[j] * rung + (1 - shares[j]) * g
            for block in self.blocks[start:end]:
                g = block(g)
            start = end
        added = self.up(self.norm(g))  # (B, h*w, E)
        return added.transpose(1, 2).unflatten(2, (h, w)).to(embedding.dtype)


def build_ladder(
    outline: Outline,
    sites: Sequence[Site],
    chosen: Sequence[Site],
    config: AdapterConfig,
    generator: torch.Generator,
) -> LadderSide:
    """With rungs at the global ones of the ``chosen`` blocks, else at the last one of each width."""
    widths = block_widths(sites)
    blocks = sorted(block_widths([site for site in chosen if site.window == 0]))
    if not blocks:
        last = {width: block for block, width in sorted(block_widths(chosen).items())}
        blocks = sorted(last.values())
    final = max(widths)
    taps = {block + 1: widths[min(block + 1, final)] for block in blocks}
    return LadderSide(taps, outline, VIT_TINY, generator)
