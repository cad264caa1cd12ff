"""timm's plain vision transformers (ViT, DeiT III, CLIP, DINOv2; class and register tokens) as encoders.

The blocks, positions and weights are timm's. Here the picture is brought to the model's patches (a patch of
16 pixels takes it as it is; for another size p it is resized by p / 16, so that the map always has stride
16), the last layer norm is applied (where a model has it before pooling), and a neck like SAM's brings the
map to 256 channels. The neck has no pretrained weights anywhere: it starts from a fixed seed and is trained
with every adapter, as the decoder is.

timm's other transformers are refused, with the reason: SAM's ViT is here already (sam_vit_b, with windows
and relative positions), and those with rotary positions, another attention (gated, differential, with
normalised queries), parallel branches or an MLP of three Linears would need the adapters to know them. An MLP
with a gate or a norm between its two Linears (DINOv2's ViT-g, BEiT-3) is taken; only parallel_adapter can't
be there (:attr:`Site.plain_mlp`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.per_thread import PerThread
from semseg_automl.models.encoders.base import (
    Encoder,
    EncoderOutput,
    is_frozen,
    neck,
    run_block,
    untouched,
)
from semseg_automl.models.encoders.positions import bicubic_table
from semseg_automl.peft.base import Site
from semseg_automl.peft.companion import Guide, Outline
from semseg_automl.peft.full import tune_whole
from semseg_automl.peft.tracing import is_traced

STRIDE = 16
EMBED_DIM = 256
_UNUSED = ("head.", "head_dist.")
_POOLING = ("attn_pool", "fc_norm")
_SITE_PATHS = {  # path in a block -> kind, part
    "attn.qkv": ("qkv", ""),
    "attn.proj": ("proj", ""),
    "mlp.fc1": ("mlp", "in"),
    "mlp.fc2": ("mlp", "out"),
}


class Grid(PerThread[tuple[int, int]]):
    """Height and width, in tokens, of the pictures that go through the encoder now, in this thread.

    Taken from ``shape`` one by one and used in ``reshape``: so an exporter sees them change with the picture.
    """

    def __init__(self, first: tuple[int, int] = (0, 0)) -> None:
        super().__init__(first)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, prefix + h*w, C) -> (B, prefix, C), (B, h, w, C)."""
        h, w = self.get()
        count = x.shape[1] - h * w
        return x[:, :count], x[:, count:].reshape(x.shape[0], h, w, x.shape[2])


class OnGrid(nn.Module):
    """A Linear of a block on tokens (B, prefix + h*w, C).

    Adapters that look at neighbours get the picture's tokens as a map, and class and register tokens pass
    through the frozen layer; all other adapters get the tokens as they are.
    """

    def __init__(self, linear: nn.Linear, grid: Grid) -> None:
        super().__init__()
        self.linear: nn.Module = linear
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C_in) -> (B, N, C_out)."""
        if not getattr(self.linear, "needs_grid", False):
            return self.linear(x)
        prefix, pixels = self.grid.split(x)
        known: Tensor = self.linear.base(prefix)  # type: ignore[operator]
        return torch.cat([known, self.linear(pixels).flatten(1, 2)], dim=1)


class TimmViTEncoder(Encoder):
    """A timm ViT with a neck: (B, 3, H, W) -> embedding (B, 256, H/16, W/16), no finer maps.

    Trainable beside the adapters: the neck, 256 C + 9 * 256^2 + 4 * 256 numbers for a ViT of width C.

    Parameters
    ----------
    vit : from :func:`create`, with its weights.
    """

    vit: Any
    input_path = "vit.patch_embed.proj"

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit
        self.embed_dim, self.skip_channels, self.multiple = EMBED_DIM, {}, STRIDE
        self.patch = int(self.vit.patch_embed.patch_size[0])
        self.grid = Grid()
        for name in _POOLING:  # of the classifier: never run, so never trained either
            if isinstance(getattr(vit, name, None), nn.Module):
                setattr(vit, name, nn.Identity())
        for block in self.vit.blocks:
            for path in _SITE_PATHS:
                part, name = path.split(".")
                owner = getattr(block, part)
                setattr(owner, name, OnGrid(getattr(owner, name), self.grid))
        self.neck = neck(self.vit.embed_dim, EMBED_DIM)
        tune_whole(self.neck, None)

    @property
    def outline(self) -> Outline:
        """See :class:`Encoder`."""
        return Outline(
            stem_channels=self.vit.embed_dim, stem_stride=STRIDE, stride=STRIDE, embed_dim=EMBED_DIM
        )

    def stem(self, images: Tensor) -> Tensor:
        """Patch embedding: (B, 3, H, W) -> (B, h, w, C); no graph while it is frozen."""
        frozen = is_frozen(self.vit.patch_embed) and not images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            if self.patch != STRIDE:
                size = [images.shape[k] // STRIDE * self.patch for k in (2, 3)]
                images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            return self.vit.patch_embed(images)

    def tail(self, stem: Tensor, guide: Guide = untouched) -> EncoderOutput:
        """Positions, blocks, last norm and neck, from :meth:`stem`'s output."""
        self.grid.set((stem.shape[1], stem.shape[2]))
        x = self._positioned(stem) if is_traced() else self.vit._pos_embed(stem)
        x = self.vit.norm_pre(x)  # (B, prefix + h*w, C)
        for i, block in enumerate(self.vit.blocks):
            x = run_block(block, self._guided(guide, i, x), self.gradient_checkpointing)
        x = self.vit.norm(self._guided(guide, len(self.vit.blocks), x))
        return EncoderOutput(self.neck(self.grid.split(x)[1].permute(0, 3, 1, 2)))  # through (B, C, h, w)

    def _positioned(self, stem: Tensor) -> Tensor:
        """timm's ``_pos_embed`` in operations of any exporter: (B, h, w, C) -> (B, prefix + h*w, C)."""
        vit, b, h, w, c = self.vit, *(stem.shape[k] for k in range(4))
        tokens = [getattr(vit, name, None) for name in ("cls_token", "reg_token")]
        x, prefix = stem.reshape(b, h * w, c), [t.expand(b, -1, -1) for t in tokens if t is not None]
        if vit.pos_embed is None:
            return torch.cat([*prefix, x], dim=1)
        first = 0 if vit.no_embed_class else vit.num_prefix_tokens
        grid = vit.pos_embed[:, first:].unflatten(1, vit.patch_embed.grid_size)  # (1, N, C) -> (1, g, g', C)
        x = x + bicubic_table(grid, h, w).reshape(1, h * w, c)
        if first:
            prefix = [torch.cat(prefix, dim=1) + vit.pos_embed[:, :first]]
        return torch.cat([*prefix, x], dim=1)

    def _guided(self, guide: Guide, block: int, x: Tensor) -> Tensor:
        """What the guide makes of the picture's tokens; class and register tokens stay."""
        if guide is untouched:
            return x
        prefix, pixels = self.grid.split(x)
        return torch.cat([prefix, guide(block, pixels).flatten(1, 2)], dim=1)

    def sites(self) -> list[Site]:
        """qkv, proj and the two MLP Linears of each block."""
        blocks = self.vit.blocks
        return [
            Site(
                name=f"{i}.{path}",
                module_path=f"vit.blocks.{i}.{path}.linear",
                kind=kind,
                part=part,
                block=i,
                n_blocks=len(blocks),
                window=0,
                heads=block.attn.num_heads,
                head_dim=block.attn.head_dim,
                plain_mlp=_is_plain_mlp(block.mlp),
            )
            for i, block in enumerate(blocks)
            for path, (kind, part) in _SITE_PATHS.items()
        ]


def create(name: str) -> nn.Module:
    """timm's model of that name without weights and classifier, for pictures of any size.

    Raises
    ------
    ConfigError
        timm knows no such model, or it is no plain ViT.
    """
    import timm

    check_name(name)
    vit = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    _check_plain(name, vit)
    return vit


def check_name(name: str) -> None:
    """Raise ConfigError where timm has no such model or weights, or the model is of another family."""
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(module="vision_transformer"), n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"backbone='timm:{name}': timm {timm.__version__} has no model {arch!r}.{hint}")
    family = timm.model_entrypoint(arch).__module__.rsplit(".", 1)[-1]
    if family != "vision_transformer":
        raise ConfigError(
            f"backbone='timm:{name}': timm's {family} is no plain ViT "
            f"({_WHY.get(family, 'another design')}). Use one of timm's vision_transformer, such as "
            "timm:vit_small_patch16_224 or timm:vit_small_patch14_reg4_dinov2."
        )
    known = [full.partition(".")[2] for full in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in known:
        raise ConfigError(
            f"backbone='timm:{name}': timm {timm.__version__} has no weights {tag!r} of {arch!r}, but "
            f"{', '.join(known) or 'none at all'}."
        )


_WHY = {
    "vision_transformer_sam": "it has windows and relative positions: use sam_vit_b",
    "eva": "it has rotary positions",
    "tiny_vit": "use mobile_sam",
}


def _check_plain(name: str, vit: Any) -> None:
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(vit, VisionTransformer) or not all(map(_is_plain_block, vit.blocks)):
        raise ConfigError(
            f"backbone='timm:{name}': its blocks are not those of a plain ViT (timm's Attention with one qkv "
            "Linear, no norm of queries and keys, no gate; behind it an MLP of the Linears fc1 and fc2), so "
            "adapters do not know where to sit."
        )


def _is_plain_block(block: Any) -> bool:
    """Whether a block has the Linears of ``_SITE_PATHS``, and the attention that adapters know."""
    from timm.models.vision_transformer import Attention

    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    if not isinstance(attention, Attention):  # DiffAttention has the same Linears, but halves its heads
        return False
    names = ((attention, "qkv"), (attention, "proj"), (mlp, "fc1"), (mlp, "fc2"))
    linear = all(isinstance(getattr(part, name, None), nn.Linear) for part, name in names)
    normed = not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity)
    gated = getattr(attention, "gate", None) is not None
    return linear and not normed and not gated


def _is_plain_mlp(mlp: Any) -> bool:
    """Whether only an activation stands between fc1 and fc2: timm's Mlp, without a norm in the middle."""
    from timm.layers import Mlp

    return isinstance(mlp, Mlp) and isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity)


def expected_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor that weights of a timm model must hold, by timm's names."""
    with torch.device("meta"):
        vit = create(name)
    return {key: tuple(value.shape) for key, value in vit.state_dict().items()}


def cached_by_timm(name: str) -> Iterator[Path]:
    """The file of a model's published weights in the cache that timm fills, if it is there; no network."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is not None and config.hf_hub_id:
        found = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
        if isinstance(found, str):
            yield Path(found)


def is_unused(name: str) -> bool:
    """Whether a tensor of timm's file is left out: a classifier's."""
    return name.startswith(_UNUSED)
