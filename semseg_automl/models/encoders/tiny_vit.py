"""TinyViT-5M as MobileSAM uses it: the last stage is not downsampled, so the embedding has stride 16.

Sources: Wu et al., "TinyViT", ECCV 2022; Zhang et al., "Faster Segment Anything" (MobileSAM), 2023;
key names as in MobileSAM's checkpoint. Differences, none of which changes a number beyond rounding:
BatchNorm is folded into its convolution when weights are loaded (it is frozen); projections run before
windows are cut (see windows.py); activations stay channels-last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.models.encoders.attention import biased_attention
from semseg_automl.models.encoders.base import (
    Encoder,
    EncoderOutput,
    Features,
    is_frozen,
    neck,
    run_block,
    untouched,
)
from semseg_automl.models.encoders.windows import join_windows, padded_size, project_padded, split_windows
from semseg_automl.peft.base import Site
from semseg_automl.peft.companion import Guide, Outline

_BN_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class TinyViTConfig:
    """Sizes per stage; stage 0 is convolutional, so its heads and window are unused. Window 0 = global."""

    dims: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    mlp_ratio: int = 4
    embed_dim: int = 256


class ConvNorm(nn.Module):
    """Convolution with its frozen BatchNorm folded in; loads either form (``c.*`` + ``bn.*`` or folded)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        weight = torch.empty(c_out, c_in // groups, kernel, kernel)
        nn.init.kaiming_normal_(weight)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.stride, self.groups = stride, groups  # kernel 1 is used with stride 1 and one group only

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        kernel = self.weight.shape[-1]
        if kernel == 1:  # a matrix product on (B, H, W, C), which is faster than the convolution on CPUs
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, kernel // 2, groups=self.groups)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}c.weight" in state_dict and f"{prefix}bn.weight" in state_dict:
            fold_batch_norm(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def fold_batch_norm(state: dict[str, Tensor], prefix: str) -> None:
    """Replace ``prefix``'s ``c.weight`` and ``bn.*`` in ``state`` by the folded ``weight`` and ``bias``."""
    state.pop(f"{prefix}bn.num_batches_tracked", None)
    conv, gamma, beta, mean, var = (
        state.pop(prefix + k).double()
        for k in ("c.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    scale = gamma / torch.sqrt(var + _BN_EPS)
    state[f"{prefix}weight"] = (conv * scale[:, None, None, None]).float()
    state[f"{prefix}bias"] = (beta - mean * scale).float()


class PatchEmbed(nn.Module):
    """Two strided convolutions: (B, 3, H, W) -> (B, C, H/4, W/4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, dim // 2, 3, 2), nn.GELU(), ConvNorm(dim // 2, dim, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted residual block of stage 0."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        mid = dim * ratio
        self.conv1 = ConvNorm(dim, mid, 1)
        self.conv2 = ConvNorm(mid, mid, 3, groups=mid)
        self.conv3 = ConvNorm(mid, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = self.conv2(F.gelu(self.conv1(x)))
        return F.gelu(x + self.conv3(F.gelu(y)))


class PatchMerging(nn.Module):
    """Widen and, with stride 2, halve the map between stages."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(c_in, c_out, 1)
        self.conv2 = ConvNorm(c_out, c_out, 3, stride, groups=c_out)
        self.conv3 = ConvNorm(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Window attention with a learned bias per head and absolute offset (LeViT's)."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(dim)
        self.qkv: nn.Module = nn.Linear(dim, 3 * dim)
        self.proj: nn.Module = nn.Linear(dim, dim)
        if window:
            self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
            self.offset_index: Tensor
            self.register_buffer("offset_index", _offset_index(window), persistent=False)

    def bias(self) -> Tensor | None:
        """The table expanded to (1, heads, N, N); None for global attention."""
        return self.attention_biases[:, self.offset_index][None] if self.window else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        size = (x.shape[1], x.shape[2])
        padded = padded_size(*size, self.window)
        qkv = project_padded(self.qkv, self.norm(x), padded, self.norm.bias)
        q, k, v = split_windows(qkv, self.window, self.heads, per_head=True)
        out = biased_attention(q, k, v, self.bias())
        return self.proj(join_windows(out, self.window, padded, size))


def _offset_index(window: int) -> Tensor:
    """(N, N) index of (|dy|, |dx|) for each pair of tokens of a window, N = window**2."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y[None]).abs() * window + (x[:, None] - x[None]).abs()


class Mlp(nn.Module):
    """Pre-normalised two-layer perceptron."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1: nn.Module = nn.Linear(dim, hidden)
        self.fc2: nn.Module = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Window attention, a depthwise 3x3 convolution, then the perceptron."""

    def __init__(self, dim: int, heads: int, window: int, ratio: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim, dim * ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape."""
        x = x + self.attn(x)
        # a (B, h, w, C) tensor permuted to (B, C, h, w) is channels_last already: no copy
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)


class Stage(nn.Module):
    """Blocks, then the merging that leads to the next stage (key names of the checkpoint)."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def merge(self, x: Tensor) -> Tensor:
        """Downsample a (B, h, w, C) map; the last stage leaves it as it is."""
        if self.downsample is None:
            return x
        return self.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # through (B, C, h, w)


class TinyViTEncoder(Encoder):
    """TinyViT with SAM's neck; (B, 3, H, W) -> embedding (B, 256, H/16, W/16) and skips at strides 4 and 8.

    ``load_state_dict`` takes the published layout (without the prefix ``image_encoder.``, BatchNorm
    unfolded) as well as its own. Weights are random until loaded.
    """

    input_path = "patch_embed.seq.0"
    UNUSED_KEYS = ("norm_head.weight", "norm_head.bias", "head.weight", "head.bias")

    def __init__(self, config: TinyViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TinyViTConfig()
        dims = config.dims
        self.embed_dim = config.embed_dim
        self.skip_channels = {4: dims[0], 8: dims[1]}
        self.patch_embed = PatchEmbed(dims[0])
        strides = (2, 2, 1)
        stages: list[nn.Module] = []
        for i, depth in enumerate(config.depths):
            down = PatchMerging(dims[i], dims[i + 1], strides[i]) if i < 3 else None
            stages.append(Stage([self._block(i) for _ in range(depth)], down))
        self.layers = nn.ModuleList(stages)
        self.neck = neck(dims[-1], config.embed_dim)

    def _block(self, stage: int) -> nn.Module:
        c = self.config
        if stage == 0:
            return MBConv(c.dims[0], c.mlp_ratio)
        return Block(c.dims[stage], c.heads[stage], c.windows[stage], c.mlp_ratio)

    def stem(self, images: Tensor) -> Tensor:
        """Patch embedding and stage 0: (B, 3, H, W) -> (B, C, H/4, W/4); no graph while they are frozen."""
        blocks = self.stages()[0].blocks
        frozen = is_frozen(self.patch_embed) and is_frozen(blocks) and not images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = self.patch_embed(images.contiguous(memory_format=torch.channels_last))
            for block in blocks:
                x = block(x)
        return x

    @property
    def outline(self) -> Outline:
        """See :class:`Encoder`."""
        return Outline(
            stem_channels=self.config.dims[0], stem_stride=4, stride=16, embed_dim=self.config.embed_dim
        )

    def stem_map(self, stem: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w, C)."""
        return stem.permute(0, 2, 3, 1)

    def entry(self, stem: Tensor) -> Features:
        """See :class:`Encoder`: "skip4", and "x" behind stage 0's merging."""
        x = self.stem_map(stem)
        return {"skip4": x, "x": self.stages()[0].merge(x)}

    def advance(self, features: Features, since: int, until: int, guide: Guide = untouched) -> Features:
        """See :class:`Encoder`: each stage's merging comes with its last block, "skip8" before it."""
        if since == self.depth:
            return features
        maps = dict(features)
        x = maps.pop("x")
        places = [(stage, block) for stage in self.stages()[1:] for block in stage.blocks]
        for index in range(since, until):
            stage, block = places[index]
            x = run_block(block, guide(index, x), self.gradient_checkpointing)
            if block is not stage.blocks[-1]:
                continue
            if stage is self.layers[1]:
                maps["skip8"] = x
            x = stage.merge(x)
        if until < self.depth:
            return maps | {"x": x}
        x = guide(until, x)
        return maps | {"embedding": self.neck(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)}

    def output(self, features: Features) -> EncoderOutput:
        """See :class:`Encoder`."""
        maps = {name: x.permute(0, 3, 1, 2) for name, x in features.items()}  # (B, h, w, C) -> (B, C, h, w)
        return EncoderOutput(maps["embedding"], {s: maps[f"skip{s}"] for s in self.skip_channels})

    def block_of(self, name: str) -> int:
        """See :class:`Encoder`; a stage's merging belongs to its last block."""
        part, _, rest = name.partition(".")
        if part == "neck":
            return self.depth - 1
        if part != "layers" or rest.startswith("0."):
            return -1
        stage, kind, index = rest.split(".")[:3]
        below, own = sum(self.config.depths[1 : int(stage)]), self.config.depths[int(stage)]
        return below + (int(index) if kind == "blocks" else own - 1)

    def stages(self) -> list[Stage]:
        """The four stages."""
        return [stage for stage in self.layers if isinstance(stage, Stage)]

    def sites(self) -> list[Site]:
        """qkv, proj and the two MLP Linears of each attention block."""
        c, n_blocks, found, index = self.config, sum(self.config.depths[1:]), [], 0
        for stage in (1, 2, 3):
            for b in range(c.depths[stage]):
                for path, (kind, part) in _SITE_PATHS.items():
                    found.append(
                        Site(
                            name=f"{index}.{path}",
                            module_path=f"layers.{stage}.blocks.{b}.{path}",
                            kind=kind,
                            part=part,
                            block=index,
                            n_blocks=n_blocks,
                            window=c.windows[stage],
                            heads=c.heads[stage],
                            head_dim=c.dims[stage] // c.heads[stage],
                            layout="per_head_qkv",
                        )
                    )
                index += 1
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the published or the folded layout; the published classifier's keys are left out."""
        known = {k: v for k, v in state_dict.items() if k not in self.UNUSED_KEYS}
        known = {k: v for k, v in known.items() if not k.endswith("attention_bias_idxs")}
        return super().load_state_dict(known, strict=strict, assign=assign)


_SITE_PATHS = {  # path in a block -> kind, part
    "attn.qkv": ("qkv", ""),
    "attn.proj": ("proj", ""),
    "mlp.fc1": ("mlp", "in"),
    "mlp.fc2": ("mlp", "out"),
}
