"""BitFit (Ben Zaken et al., ACL 2022): only biases are trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.base import AdapterLayer, Site, target_rows


class BitFitLayer(AdapterLayer):
    """h = W0 x + b0 + d with d trained from 0.

    Trainable: one number for each output of every adapted Linear (qkv, proj and both of the MLP), that
    is 9 C for a block of width C with an MLP of 4 C. Accepts (B, h, w, C) and (B, N, C). Merges into b0 + d.

    Deliberate differences from the paper: the change d of a bias is trained instead of the bias, which
    is the same but keeps b0 at hand (and biases get no weight decay here anyway); biases of layer norms
    and convolutions stay frozen; at q, k, v the rows that ``targets`` leaves out stay frozen. A bias of the
    keys adds the same number to all of a query's scores, which softmax ignores; it is counted, as in the
    paper's full form. ``rank`` and ``alpha`` have no effect.

    Attributes
    ----------
    shift : Parameter (rows,)
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
        self.shift = nn.Parameter(torch.zeros(len(rows)))

    def full_shift(self) -> Tensor:
        """d, zero in the rows that are not adapted: (C_out,)."""
        return self.shift.new_zeros(self.base.out_features).index_copy(0, self.row_index, self.shift)

    def adapt(self, x: Tensor) -> Tensor:
        """Base output plus d."""
        out = self.base(x)
        return out + self.full_shift().to(out.dtype)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """W0 and b0 + d."""
        shift = self.full_shift()
        return self.base.weight, shift if self.base.bias is None else self.base.bias + shift
