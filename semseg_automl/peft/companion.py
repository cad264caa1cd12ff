"""A trained network beside the frozen encoder, for methods that are no change of one linear layer.

An encoder that can have one holds it as ``companion`` and describes itself in ``outline``; its forward
pass then hands over the picture, its stem's output and a function that runs the frozen blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import Adapter, Site
from semseg_automl.peft.tracing import is_traced

Guide = Callable[[int, Tensor], Tensor]
"""Called before block i with its input (B, h, w, C), and with i = number of blocks behind the last one;
the answer takes the input's place."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a companion has to know of an encoder.

    Attributes
    ----------
    stem_channels, stem_stride : int
        Of the stem's output.
    stride : int
        Of the embedding.
    embed_dim : int
        Channels of the embedding.
    """

    stem_channels: int
    stem_stride: int
    stride: int
    embed_dim: int


class Companion(Adapter):
    """Base class. Subclasses implement :meth:`forward`.

    ``blocks`` are the numbers of the blocks that the placement chose.
    """

    def forward(self, images: Tensor, stem: Tensor, run: Callable[[Guide], Any]) -> Any:
        """Encode.

        Parameters
        ----------
        images : (B, 3, H, W), as the encoder gets them.
        stem : (B, h, w, C), the stem's output as a map, without a graph.
        run : runs the frozen blocks on the stem with a guide; answers what the bare encoder would, a
            dataclass with ``embedding`` (B, embed_dim, h, w).

        Returns
        -------
        object
            Of the same kind as ``run``'s.
        """
        raise NotImplementedError  # abstract: each method defines it


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of (B, C, H, W) over areas: (B, C, *size), as ``adaptive_avg_pool2d``.

    An exporter gets the windows that this means where ``size`` divides (H, W), as the sizes of an encoder's
    maps do.
    """
    if is_traced():
        return F.avg_pool2d(maps, (int(maps.shape[2] // size[0]), int(maps.shape[3] // size[1])))
    return F.adaptive_avg_pool2d(maps, size)


def outline_of(encoder: nn.Module, method: str) -> Outline:
    """The encoder's outline; ConfigError where it can't have a companion."""
    outline = getattr(encoder, "outline", None)
    if not isinstance(outline, Outline):
        raise ConfigError(
            f"adapter={method!r} works beside the encoder, and {type(encoder).__name__} has no place for "
            "that. Use a method that changes its linear layers, such as lora."
        )
    return outline


def block_widths(sites: Sequence[Site]) -> dict[int, int]:
    """Block number -> channels, for the blocks of the qkv sites among ``sites``."""
    return {site.block: site.heads * site.head_dim for site in sites if site.kind == "qkv"}
