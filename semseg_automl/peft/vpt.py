"""Visual prompt tuning (Jia et al., "Visual Prompt Tuning", ECCV 2022) as gated prompt attention.

Learned tokens p_1..p_P stand beside the picture's tokens in the attention. For a query q of one head

    a(q) = A(q, K, V) + g softmax(q Kp^T / sqrt(d)) Vp,   [., Kp, Vp] = W0 p + b0,

with A the frozen attention over the picture's tokens (relative positions, windows and all), W0 the frozen
qkv projection and g a number for each head, from 0. Two layers share the work: the one at qkv
computes the second term, the one at proj adds it to what the attention answers (in timm's BEiT-3, which has a
norm before proj, to what that norm answers).

Deliberate differences from the paper:

- the prompts have a softmax of their own and a gate, where the paper has one softmax over both. In the
  paper's form a = (1 - m) A + m softmax(q Kp^T) Vp with m the prompts' share of the attention (He et al.,
  ICLR 2022, equation 7), which is not 0 at the start; a gate from 0 (Zhang et al., "LLaMA-Adapter", ICLR
  2024) starts as the frozen encoder and leaves the encoder's own attention as it is;
- what a prompt would read from the picture is dropped at the end of the block, as in the paper's deep form.
  So is it in the shallow form, whose prompts stand in the first adapted block alone: stages of other widths
  and windows have no place for tokens that travel on;
- prompts take the place of normalised tokens (no layer norm before W0) and start with their unit variance;
- in an encoder with windows the P tokens belong to each window, the same ones in all windows. As they have
  no position and nothing is written to them, that is the same as P tokens for the whole map. They
  have no relative position: their scores get no bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.per_thread import PerThread
from semseg_automl.peft.base import AdapterLayer, Site


def prompted_sites(sites: Sequence[Site], config: AdapterConfig) -> list[Site]:
    """All of ``sites`` for deep prompts, those of the first block for shallow ones."""
    if config.prompt_depth == "deep":
        return list(sites)
    first = min(site.block for site in sites)
    return [site for site in sites if site.block == first]


def build_prompts(
    base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
) -> AdapterLayer:
    """The layer that belongs to the qkv or the output projection of an attention."""
    if site.kind == "qkv":
        return PromptLayer(base, site, config, generator)
    return PromptOutputLayer(base, site)


def connect_prompts(layers: Sequence[AdapterLayer]) -> None:
    """Tell each output layer which prompts its attention has.

    Raises
    ------
    ConfigError
        A block with only one of the two.
    """
    prompts = {layer.site.block: layer for layer in layers if isinstance(layer, PromptLayer)}
    outputs = {layer.site.block: layer for layer in layers if isinstance(layer, PromptOutputLayer)}
    if prompts.keys() != outputs.keys():
        raise ConfigError(
            "adapter='vpt' needs the qkv and the proj Linear of each attention, and blocks "
            f"{sorted(prompts.keys() ^ outputs.keys())} offer only one of them."
        )
    for block, output in outputs.items():
        output.partner = [prompts[block]]


class PromptLayer(AdapterLayer):
    """The frozen qkv projection; beside it, what its queries read from the prompts.

    ``rank`` is the number P of prompts. Trainable: P C + heads for each block. Accepts (B, h, w, C) and
    (B, N, C), class and register tokens included.

    Attributes
    ----------
    prompts : Parameter (P, C)
    gate : Parameter (heads,)
    read : PerThread of Tensor (..., C) or None
        Of this thread's last forward pass, until the output layer takes it.
    """

    no_merge = "its prompts are further tokens of the attention"
    rows: Tensor

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        start = (torch.rand(config.rank, base.in_features, generator=generator) * 2 - 1) * 3**0.5
        self.prompts = nn.Parameter(start)
        self.gate = nn.Parameter(torch.zeros(site.heads))
        self.register_buffer("rows", torch.stack([site.rows(part) for part in "qkv"]), persistent=False)
        self.read: PerThread[Tensor | None] = PerThread(None)

    def adapt(self, x: Tensor) -> Tensor:
        """Base output, unchanged; :attr:`read` is set."""
        out = self.base(x)
        heads, d = self.site.heads, self.site.head_dim
        q = out[..., self.rows[0]].unflatten(-1, (heads, d))  # (..., C) -> (..., heads, d)
        tokens = self.base(self.prompts)  # (P, 3C)
        k, v = (tokens[:, rows].unflatten(-1, (heads, d)) for rows in self.rows[1:])  # (P, heads, d)
        scores = torch.einsum("...hd,phd->...hp", q, k) * d**-0.5
        shares = scores.float().softmax(-1) if scores.dtype == torch.bfloat16 else scores.softmax(-1)
        shares = shares * self.gate[:, None]
        self.read.set(torch.einsum("...hp,phd->...hd", shares.to(v.dtype), v).flatten(-2))
        return out

    def take(self) -> Tensor | None:
        """:attr:`read`, once; None while the layer is disabled."""
        read = self.read.get()
        self.read.set(None)
        return read if self.enabled else None


class PromptOutputLayer(AdapterLayer):
    """W0 (a + read) + b0 at an attention's output projection; trains nothing itself.

    Attributes
    ----------
    partner : list of one PromptLayer
        A list, so that its parameters are counted where they are.
    """

    no_merge = PromptLayer.no_merge

    def __init__(self, base: nn.Linear, site: Site) -> None:
        super().__init__(base, site)
        self.partner: list[PromptLayer] = []

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        read = self.partner[0].take() if self.partner else None
        return self.base(x if read is None or not self.enabled else x + read.to(x.dtype))
