"""Serial bottleneck adapter (Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.base import AdapterLayer, Site, kaiming_uniform


class SerialAdapterLayer(AdapterLayer):
    """h = y + Wu GELU(Wd y + bd) + bu with y = W0 x + b0, after proj and after the MLP's second Linear.

    Those are the paper's two places (figure 2): behind each sublayer's last projection, before the
    residual sum. ``rank`` r is the width of the bottleneck. Trainable: 2 r C + r + C for each of the two
    Linears of a block of width C. Accepts (B, h, w, C) and (B, N, C).

    Deliberate differences from the paper: Wu and bu start at exactly 0 instead of near it, so that the
    start is the frozen encoder; layer norms stay frozen. ``alpha`` has no effect: the paper
    does not scale, and there is no q, k, v at these places.

    Attributes
    ----------
    down, down_bias : Parameter (r, C), (r,)
    up, up_bias : Parameter (C, r), (C,)
    """

    no_merge = "a non-linearity stands between its two projections"

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        c, r = base.out_features, config.rank
        self.down = nn.Parameter(kaiming_uniform((r, c), generator))
        self.down_bias = nn.Parameter(torch.zeros(r))
        self.up = nn.Parameter(torch.zeros(c, r))
        self.up_bias = nn.Parameter(torch.zeros(c))

    def adapt(self, x: Tensor) -> Tensor:
        """Base output plus its bottleneck."""
        y = self.base(x)
        z = nn.functional.gelu(nn.functional.linear(y, self.down, self.down_bias))  # (..., r)
        return y + nn.functional.linear(z, self.up, self.up_bias)
