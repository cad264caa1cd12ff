"""Mona, the multi-cognitive visual adapter (Yin et al., CVPR 2025).

Source: "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks". A
bottleneck adapter whose middle sees neighbours, through depthwise kernels of three sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import AdapterLayer, Site, kaiming_uniform

KERNELS = (3, 5, 7)
NORM_START = 1e-6


class MonaLayer(AdapterLayer):
    """h = y + Wu GELU(p) + bu after proj and after the MLP's second Linear, y = W0 x + b0, with

    n = s1 * LayerNorm(y) + s2 * y,  z = Wd n + bd,
    m = z + (D3(z) + D5(z) + D7(z)) / 3,  p = m + Wp m + bp,

    D_k a k x k depthwise convolution with bias and zero padding, s1 from 1e-6 and s2 from 1 as in the
    paper. ``rank`` r is the width of the bottleneck (64 in the paper). Trainable for each of the two Linears
    of a block of width C: 2 r C + 5 C + r^2 + 88 r.

    Needs a grid (B, h, w, C). Convolutions see across the borders of attention windows, for the map is
    whole again behind proj and in the MLP.

    Deliberate differences from the paper: it stands before the residual sum instead of behind it, where
    a linear layer is and an adapter of the residual stream isn't; Wu and bu start at 0, so that the start is
    the frozen encoder; no dropout. ``alpha`` has no effect.

    Attributes
    ----------
    norm_weight, norm_bias, norm_scale, skip_scale : Parameter (C,)
    down, down_bias : Parameter (r, C), (r,)
    depthwise, depthwise_bias : ParameterList of (r, 1, k, k), Parameter (3, r)
    mix, mix_bias : Parameter (r, r), (r,)
    up, up_bias : Parameter (C, r), (C,)
    """

    needs_grid = True
    no_merge = "its convolutions mix neighbouring tokens and a non-linearity follows"

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        c, r = base.out_features, config.rank
        self.norm_weight = nn.Parameter(torch.ones(c))
        self.norm_bias = nn.Parameter(torch.zeros(c))
        self.norm_scale = nn.Parameter(torch.full((c,), NORM_START))
        self.skip_scale = nn.Parameter(torch.ones(c))
        self.down = nn.Parameter(kaiming_uniform((r, c), generator))
        self.down_bias = nn.Parameter(torch.zeros(r))
        self.depthwise = nn.ParameterList(
            nn.Parameter(kaiming_uniform((r, 1, k, k), generator, fan_in=k * k)) for k in KERNELS
        )
        self.depthwise_bias = nn.Parameter(torch.zeros(len(KERNELS), r))
        self.mix = nn.Parameter(kaiming_uniform((r, r), generator))
        self.mix_bias = nn.Parameter(torch.zeros(r))
        self.up = nn.Parameter(torch.zeros(c, r))
        self.up_bias = nn.Parameter(torch.zeros(c))

    def adapt(self, x: Tensor) -> Tensor:
        """Base output plus its convolutional bottleneck."""
        if x.dim() != 4:
            raise ConfigError(
                f"mona at {self.site.name!r} needs a grid (B, h, w, C), not {x.dim()} axes; "
                "use adapter='adapter' where tokens have no grid."
            )
        y = self.base(x)
        normed = F.layer_norm(y, self.norm_weight.shape, self.norm_weight, self.norm_bias)
        z = F.linear(normed * self.norm_scale + y * self.skip_scale, self.down, self.down_bias)
        z = z + self._neighbours(z)
        z = z + F.linear(z, self.mix, self.mix_bias)
        return y + F.linear(F.gelu(z), self.up, self.up_bias)

    def _neighbours(self, z: Tensor) -> Tensor:
        """Mean of the three depthwise convolutions of (B, h, w, r)."""
        maps = z.permute(0, 3, 1, 2)  # (B, h, w, r) -> (B, r, h, w)
        total = torch.zeros_like(maps)
        for kernel, bias in zip(self.depthwise, self.depthwise_bias, strict=True):
            total = total + F.conv2d(maps, kernel, bias, padding=kernel.shape[-1] // 2, groups=len(kernel))
        return total.permute(0, 2, 3, 1) / len(KERNELS)  # (B, r, h, w) -> (B, h, w, r)
