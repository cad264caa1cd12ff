"""SSF (Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.base import AdapterLayer, Site, target_rows


class SSFLayer(AdapterLayer):
    """h = g * (W0 x + b0) + d for each output channel, with g from 1 and d from 0.

    Trainable: two numbers for each output of every adapted Linear (qkv, proj and both of the MLP), that
    is 18 C for a block of width C with an MLP of 4 C. Accepts (B, h, w, C) and (B, N, C). Merges into
    diag(g) W0 and g * b0 + d, which costs nothing at inference: ``merge_adapters`` and the export to ONNX do
    it, ``predict`` runs the layers unmerged.

    Deliberate differences from the paper: g and d start at exactly 1 and 0 instead of samples around
    them; layer norms and the patch embedding get no scale and shift of their own; at q, k, v the rows that
    ``targets`` leaves out stay frozen. Neither g nor d decays (vectors never do here), so g isn't pulled
    to 0. ``rank`` and ``alpha`` have no effect.

    Attributes
    ----------
    scale, shift : Parameter (rows,)
    """

    pointwise = True
    no_merge = ""
    row_index: Tensor

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site)
        rows = target_rows(base, site, config.targets)
        self.register_buffer("row_index", rows, persistent=False)
        self.scale = nn.Parameter(torch.ones(len(rows)))
        self.shift = nn.Parameter(torch.zeros(len(rows)))

    def full_vectors(self) -> tuple[Tensor, Tensor]:
        """g and d, 1 and 0 in the rows that are not adapted: each (C_out,)."""
        size = self.base.out_features
        scale = self.scale.new_ones(size).index_copy(0, self.row_index, self.scale)
        return scale, self.shift.new_zeros(size).index_copy(0, self.row_index, self.shift)

    def adapt(self, x: Tensor) -> Tensor:
        """Base output, scaled and shifted.

        In bfloat16 a scale within 0.4 % of 1 does nothing, since the output itself has no finer steps; merged
        it counts. (Scaling the weights would show it, at the price of a full weight's gradient.)
        """
        out = self.base(x)
        scale, shift = self.full_vectors()
        return out * scale.to(out.dtype) + shift.to(out.dtype)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """diag(g) W0 and g * b0 + d."""
        scale, shift = self.full_vectors()
        weight = scale[:, None] * self.base.weight
        return weight, shift if self.base.bias is None else scale * self.base.bias + shift
