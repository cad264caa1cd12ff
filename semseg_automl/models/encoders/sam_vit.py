"""SAM's plain ViT (ViT-B, L, H) for any image size.

Source: Kirillov et al., "Segment Anything", 2023, after Li et al., "Exploring Plain Vision Transformer
Backbones for Object Detection" (ViTDet), 2022; key names and numbers of
``segment_anything.modeling.ImageEncoderViT``. Differences: position embeddings are interpolated to
the grid of the image (bicubic; the package takes one size only; relative tables are interpolated as the
package does), projections run before windows are cut (see windows.py), and attention is computed
without storing (tokens, tokens) maps (see rel_pos.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.models.encoders.base import (
    Encoder,
    EncoderOutput,
    Features,
    is_frozen,
    neck,
    run_block,
    untouched,
)
from semseg_automl.models.encoders.positions import bicubic_table
from semseg_automl.models.encoders.rel_pos import relative_attention, relative_table
from semseg_automl.models.encoders.windows import join_windows, padded_size, project_padded, split_windows
from semseg_automl.peft.base import Site
from semseg_automl.peft.companion import Guide, Outline
from semseg_automl.peft.tracing import is_traced


@dataclass(frozen=True, kw_only=True)
class SamViTConfig:
    """Sizes of a SAM image encoder; ``grid`` is the side of the stored position embedding in tokens."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    patch: int = 16
    mlp_ratio: int = 4
    embed_dim: int = 256
    grid: int = 64


class PatchEmbed(nn.Module):
    """One strided convolution: (B, 3, H, W) -> (B, H/patch, W/patch, C)."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Embed; contiguous, or every later norm would copy."""
        return self.proj(x).permute(0, 2, 3, 1).contiguous()


class Attention(nn.Module):
    """Attention in windows or over the whole map (``window=0``), with decomposed relative positions."""

    def __init__(self, dim: int, heads: int, window: int, table_side: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv: nn.Module = nn.Linear(dim, 3 * dim)
        self.proj: nn.Module = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_side - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        size = (x.shape[1], x.shape[2])
        padded = padded_size(*size, self.window)
        qkv = project_padded(self.qkv, x, padded, x.new_zeros(x.shape[-1]))
        q, k, v = split_windows(qkv, self.window, self.heads, per_head=False)
        wh, ww = (self.window, self.window) if self.window else size
        rows, columns = relative_table(self.rel_pos_h, wh), relative_table(self.rel_pos_w, ww)
        out = relative_attention(q, k, v, rows, columns)
        return self.proj(join_windows(out, self.window, padded, size))


class Mlp(nn.Module):
    """Two-layer perceptron."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1: nn.Module = nn.Linear(dim, hidden)
        self.lin2: nn.Module = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        return self.lin2(F.gelu(self.lin1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: SamViTConfig, index: int) -> None:
        super().__init__()
        window = 0 if index in config.global_blocks else config.window
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config.dim, config.heads, window, window or config.grid)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.dim * config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SamViTEncoder(Encoder):
    """SAM's image encoder: (B, 3, H, W) -> embedding (B, 256, H/16, W/16), no finer maps.

    ``load_state_dict`` takes the published layout without the prefix ``image_encoder.``. Weights are
    random (position tables zero) until loaded.
    """

    input_path = "patch_embed.proj"

    def __init__(self, config: SamViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SamViTConfig()
        self.embed_dim, self.multiple = config.embed_dim, config.patch
        self.skip_channels = {}
        self._fitted_positions: tuple[object, Tensor] | None = None
        self.patch_embed = PatchEmbed(config.dim, config.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, config.dim))
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.depth)])
        self.neck = neck(config.dim, config.embed_dim)

    def positions(self, h: int, w: int) -> Tensor:
        """Position embedding for an h x w grid: (1, h, w, C), bicubic where the size differs.

        While it is frozen, the one of the latest size is kept.
        """
        stored = self.pos_embed
        if is_traced():
            return bicubic_table(stored, h, w)
        if (h, w) == tuple(stored.shape[1:3]):
            return stored
        key = (h, w, stored.data_ptr(), stored._version, stored.dtype)
        if self._fitted_positions is not None and self._fitted_positions[0] == key:
            return self._fitted_positions[1]
        table = stored.permute(0, 3, 1, 2)  # (1, g, g, C) -> (1, C, g, g)
        table = F.interpolate(table.float(), size=(h, w), mode="bicubic", antialias=True, align_corners=False)
        fitted = table.to(stored.dtype).permute(0, 2, 3, 1).contiguous()
        if not stored.requires_grad and not torch.is_inference_mode_enabled():
            self._fitted_positions = (key, fitted)
        return fitted

    def stem(self, images: Tensor) -> Tensor:
        """Patch embedding and positions: (B, 3, H, W) -> (B, h, w, C); no graph while they are frozen."""
        frozen = is_frozen(self.patch_embed) and not self.pos_embed.requires_grad and not images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = self.patch_embed(images)
            return x + self.positions(x.shape[1], x.shape[2])

    @property
    def outline(self) -> Outline:
        """See :class:`Encoder`."""
        c = self.config
        return Outline(stem_channels=c.dim, stem_stride=c.patch, stride=c.patch, embed_dim=c.embed_dim)

    def entry(self, stem: Tensor) -> Features:
        """See :class:`Encoder`."""
        return {"x": stem}

    def advance(self, features: Features, since: int, until: int, guide: Guide = untouched) -> Features:
        """See :class:`Encoder`: {"x"}, behind the neck {"embedding"}."""
        if since == len(self.blocks):
            return features
        x = features["x"]
        for i in range(since, until):
            x = run_block(self.blocks[i], guide(i, x), self.gradient_checkpointing)
        if until < len(self.blocks):
            return {"x": x}
        x = guide(until, x)
        return {"embedding": self.neck(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)}  # through (B, C, h, w)

    def output(self, features: Features) -> EncoderOutput:
        """See :class:`Encoder`."""
        return EncoderOutput(features["embedding"].permute(0, 3, 1, 2))  # (B, h, w, C) -> (B, C, h, w)

    def block_of(self, name: str) -> int:
        """See :class:`Encoder`."""
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.split(".", 1)[0])
        return len(self.blocks) - 1 if part == "neck" else -1

    def sites(self) -> list[Site]:
        """qkv, proj and the two MLP Linears of each block."""
        c = self.config
        return [
            Site(
                name=f"{i}.{path}",
                module_path=f"blocks.{i}.{path}",
                kind=kind,
                part=part,
                block=i,
                n_blocks=c.depth,
                window=0 if i in c.global_blocks else c.window,
                heads=c.heads,
                head_dim=c.dim // c.heads,
                layout="qkv",
            )
            for i in range(c.depth)
            for path, (kind, part) in _SITE_PATHS.items()
        ]


_SITE_PATHS = {  # path in a block -> kind, part
    "attn.qkv": ("qkv", ""),
    "attn.proj": ("proj", ""),
    "mlp.lin1": ("mlp", "in"),
    "mlp.lin2": ("mlp", "out"),
}
