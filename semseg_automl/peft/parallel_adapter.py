"""The scaled parallel adapter (He et al., ICLR 2022).

Source: "Towards a Unified View of Parameter-Efficient Transfer Learning". Beside an MLP
W2 f(W1 x + b1) + b2  it adds  s (Wu f(Wd x + bd) + bu).  With the MLP's own activation f that is an MLP
with r more hidden units: the first Linear gets Wd as further rows, the second one s Wu as further
columns. So it needs two linear layers and nothing that connects them, and it merges. Where more than an
activation stands between the two (a gate, a norm over the channels) the r units can't pass: it is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import AdapterLayer, Site, kaiming_uniform


def build_parallel(
    base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
) -> AdapterLayer:
    """The half of the adapter that belongs to the MLP's first or second Linear."""
    if not site.plain_mlp:
        raise ConfigError(
            f"parallel_adapter at {site.name!r}: it widens an MLP by further hidden units, and this one has "
            "a gate or a norm between its Linears, which those can't pass. Use adapter='adapter', or 'lora' "
            "with targets=('mlp',)."
        )
    if site.role == "mlp_in":
        return ParallelDownLayer(base, site, config, generator)
    if site.role == "mlp_out":
        return ParallelUpLayer(base, site, config, generator)
    raise ConfigError(
        f"parallel_adapter at {site.name!r}: the site must be the first or the second Linear of an MLP "
        f"(role 'mlp_in' or 'mlp_out'), not {site.role!r}."
    )


class ParallelDownLayer(AdapterLayer):
    """[W1 x + b1 | Wd x + bd]: (..., C) -> (..., hidden + r), at the first Linear of an MLP.

    Both halves of the adapter together train 2 r C + r + C numbers for each block of width C; this one
    r C + r. ``rank`` r is the width of the bottleneck, s = alpha / rank whatever ``rslora`` is. The paper
    has s = 4 at every rank, which is alpha = 4 * rank: the defaults (32 and 8) are that, another rank needs
    another alpha. Accepts (B, h, w, C) and (B, N, C).

    Deliberate differences from the paper: the activation is the MLP's own GELU instead of ReLU; the
    input is what the MLP's first Linear reads, that is after the layer norm; Wu and bu start at 0.
    The wider hidden map costs one copy of it for each pass.

    Attributes
    ----------
    down, down_bias : Parameter (r, C), (r,)
    """

    no_merge = ""

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        self.down = nn.Parameter(kaiming_uniform((config.rank, base.in_features), generator))
        self.down_bias = nn.Parameter(torch.zeros(config.rank))

    def adapt(self, x: Tensor) -> Tensor:
        """Base output with the bottleneck's r channels behind it."""
        return torch.cat([self.base(x), nn.functional.linear(x, self.down, self.down_bias)], dim=-1)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """[W1; Wd] and [b1 | bd]: a Linear with r more outputs."""
        bias = self.down.new_zeros(self.base.out_features) if self.base.bias is None else self.base.bias
        return torch.cat([self.base.weight, self.down]), torch.cat([bias, self.down_bias])


class ParallelUpLayer(AdapterLayer):
    """W2 a + b2 + s (Wu e + bu) on (..., hidden + r) = [a | e], at the second Linear of an MLP.

    Trains r C + C numbers; see :class:`ParallelDownLayer`. Without the r further channels (its partner
    is disabled) it is the frozen layer; disabled, it ignores them.

    Attributes
    ----------
    up, up_bias : Parameter (C, r), (C,)
    """

    no_merge = ""

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        self.scaling = config.alpha / config.rank
        self.up = nn.Parameter(torch.zeros(base.out_features, config.rank))
        self.up_bias = nn.Parameter(torch.zeros(base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., hidden + r), or (..., hidden) where the partner is disabled, to (..., C)."""
        hidden = self.base.in_features
        if self.enabled and x.shape[-1] > hidden:
            return self.adapt(x)
        return self.base(x[..., :hidden])

    def adapt(self, x: Tensor) -> Tensor:
        """Base output of the first channels plus s times the bottleneck's."""
        a, e = x[..., : self.base.in_features], x[..., self.base.in_features :]
        return self.base(a) + self.scaling * nn.functional.linear(e, self.up, self.up_bias)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """[W2 | s Wu] and b2 + s bu: a Linear with r more inputs."""
        bias = self.scaling * self.up_bias
        bias = bias if self.base.bias is None else self.base.bias + bias
        return torch.cat([self.base.weight, self.scaling * self.up], dim=1), bias
