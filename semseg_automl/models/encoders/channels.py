"""An encoder for pictures of more than three channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from semseg_automl.core.errors import ConfigError
from semseg_automl.models.encoders.base import Encoder
from semseg_automl.peft.full import TUNED

_KNOWN = 3


class WiderInput(nn.Module):
    """The encoder's first convolution on the first three channels, plus a new one on the others.

    conv(x) = rgb(x[:, :3]) + extra(x[:, 3:]). ``extra`` starts at zero, so that at first the network
    sees what it was trained on, and is the only part of it that is trained: like an adapter.

    Parameters
    ----------
    rgb : the pretrained convolution, with weight (C_out, 3, k, k)
    extra : convolution of the further channels, of the same kernel, stride and padding
    """

    def __init__(self, rgb: nn.Module, extra: nn.Conv2d) -> None:
        super().__init__()
        self.rgb = rgb
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H/stride, W/stride)."""
        return self.rgb(x[:, :_KNOWN]) + self.extra(x[:, _KNOWN:])


def extend_input(encoder: Encoder, channels: int) -> None:
    """Let an encoder take (B, ``channels``, H, W); its pretrained weights stay as they are.

    To be called after adapters were injected, which freezes everything that is there.

    Raises
    ------
    ConfigError
        Fewer than three channels, or an encoder that doesn't say where its first convolution is.
    """
    if channels == _KNOWN:
        return
    if channels < _KNOWN or not encoder.input_path:
        raise ConfigError(
            f"{type(encoder).__name__} can't take pictures of {channels} channels, only of {_KNOWN}: "
            "use mobile_sam or a sam_vit backbone, or leave channels out."
        )
    parent, _, name = encoder.input_path.rpartition(".")
    rgb: Any = encoder.get_submodule(encoder.input_path)
    weight = encoder.get_parameter(f"{encoder.input_path}.weight")
    stride, padding = rgb.stride, getattr(rgb, "padding", weight.shape[-1] // 2)
    extra = nn.Conv2d(
        channels - _KNOWN, len(weight), weight.shape[-1], stride, padding, bias=False, dtype=weight.dtype
    )
    nn.init.zeros_(extra.weight)
    setattr(extra, TUNED, True)  # stored with the adapters
    setattr(encoder.get_submodule(parent), name, WiderInput(rgb, extra))
    encoder.in_channels = channels
