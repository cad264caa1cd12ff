"""What every image encoder gives and promises."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import Site
from semseg_automl.peft.companion import Companion, Guide, Outline
from semseg_automl.peft.tracing import is_traced


@dataclass(frozen=True)
class EncoderOutput:
    """What a decoder reads.

    embedding : (B, C, H/16, W/16), float.
    skips : stride -> (B, C_s, H/s, W/s), for the strides in :attr:`Encoder.skip_channels`.
    """

    embedding: Tensor
    skips: dict[int, Tensor] = field(default_factory=dict)


Features = dict[str, Tensor]
"""Maps (B, h, w, C) by name, between two blocks or behind the neck."""


def untouched(_block: int, x: Tensor) -> Tensor:
    """The guide that changes nothing."""
    return x


class Encoder(nn.Module):
    """Base class of encoders: an image (B, in_channels, H, W) in, an :class:`EncoderOutput` out.

    Attributes
    ----------
    embed_dim : channels of the embedding.
    skip_channels : stride -> channels of the finer maps (empty for plain ViTs).
    multiple : H and W must be multiples of it.
    in_channels : channels of the images; 3 until ``channels.extend_input`` changes it.
    input_path : dotted path of the first convolution; empty: the input can't be extended.
    gradient_checkpointing : recompute each block in the backward pass (less memory, more time).
    companion : a network beside the encoder (:mod:`semseg_automl.peft.companion`), or None.
    """

    embed_dim: int
    skip_channels: dict[int, int]
    multiple: int = 16
    in_channels: int = 3
    input_path: str = ""
    gradient_checkpointing: bool = False
    companion: Companion | None

    def __init__(self) -> None:
        super().__init__()
        self.companion = None

    @property
    def outline(self) -> Outline:
        """What a companion has to know of this encoder."""
        raise NotImplementedError  # abstract: each encoder defines it

    def sites(self) -> list[Site]:
        """Every Linear that an adapter may wrap, in the order of the blocks."""
        raise NotImplementedError  # abstract: each encoder defines it

    def stem(self, images: Tensor) -> Tensor:
        """The part below every site: what a cache of frozen features may keep."""
        raise NotImplementedError  # abstract: each encoder defines it

    def stem_map(self, stem: Tensor) -> Tensor:
        """:meth:`stem`'s output as (B, h, w, C)."""
        return stem

    def entry(self, stem: Tensor) -> Features:
        """What block 0 and the neck are given, from :meth:`stem`'s output."""
        raise NotImplementedError  # abstract: each encoder that can be cut defines it

    def advance(self, features: Features, since: int, until: int, guide: Guide = untouched) -> Features:
        """Run blocks ``since`` up to ``until`` and, where that is :attr:`depth`, the neck."""
        raise NotImplementedError  # abstract: each encoder that can be cut defines it

    def output(self, features: Features) -> EncoderOutput:
        """What the decoder reads, from the maps behind the neck."""
        raise NotImplementedError  # abstract: each encoder that can be cut defines it

    def block_of(self, _name: str) -> int:
        """The block that a parameter belongs to: -1 below block 0, the last one for the neck.

        An encoder that can't be cut says -1 of all.
        """
        return -1

    @property
    def depth(self) -> int:
        """Number of blocks, as the sites count them."""
        return self.sites()[0].n_blocks

    def first_trained(self) -> int:
        """The lowest block with anything trained; -1: something below block 0 is; ``depth``: nothing is."""
        trained = (self.block_of(name) for name, p in self.named_parameters() if p.requires_grad)
        return min(trained, default=self.depth)

    def lower(self, images: Tensor, until: int = 0) -> Features:
        """Everything below block ``until``, contiguous maps: what a cache of frozen features may keep."""
        return self.advance(self.entry(self.stem(images)), 0, until)

    def upper(self, features: Features, since: int = 0) -> EncoderOutput:
        """Everything from block ``since`` on; ``upper(lower(x, i), i) == forward(x)`` for every i."""
        return self.output(self.advance(features, since, self.depth))

    def tail(self, stem: Tensor, guide: Guide = untouched) -> EncoderOutput:
        """Everything after :meth:`stem`; ``tail(stem(x)) == forward(x)`` unless there is a companion.

        ``guide`` sees, and may change, the map before each block and behind the last.
        """
        return self.output(self.advance(self.entry(stem), 0, self.depth, guide))

    def forward(self, images: Tensor) -> EncoderOutput:
        """Encode (B, in_channels, H, W) normalised float images; H, W multiples of ``multiple``."""
        check_size(images, self.multiple)
        stem = self.stem(images)
        if self.companion is None or not self.companion.enabled:
            return self.tail(stem)
        seen = images if self.in_channels == 3 else images[:, :3]  # a companion knows three channels
        output: EncoderOutput = self.companion(seen, self.stem_map(stem), functools.partial(self.tail, stem))
        return output


def check_size(images: Tensor, multiple: int) -> None:
    """Refuse a batch whose height or width isn't a positive multiple of ``multiple``."""
    if is_traced():  # the size is only known when the recording runs
        return
    h, w = images.shape[-2:]
    if h < multiple or w < multiple or h % multiple or w % multiple:
        raise ConfigError(
            f"images are {h} x {w}: height and width must be multiples of {multiple}. "
            f"Pad them (data.preprocess.plan_geometry does)."
        )


def is_frozen(module: nn.Module) -> bool:
    """True if no parameter of ``module`` is trained."""
    return not any(p.requires_grad for p in module.parameters())


def run_block(block: nn.Module, x: Tensor, checkpointing: bool) -> Tensor:
    """Run a block, recomputed in the backward pass where ``checkpointing`` asks for it."""
    if checkpointing and torch.is_grad_enabled():
        result: Any = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return result
    return block(x)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, C, H, W) (ConvNeXt's), done channels-last.

    Same parameters and, up to rounding, numbers as ``segment_anything.modeling.common.LayerNorm2d``.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel's channel vector."""
        y = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        y = nn.functional.layer_norm(y, self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)  # channels_last in memory


def neck(in_channels: int, out_channels: int) -> nn.Sequential:
    """SAM's neck: 1x1 and 3x3 convolutions without bias, each followed by a layer norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
