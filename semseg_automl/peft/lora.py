"""LoRA (Hu et al., ICLR 2022, equation 3) on the fused q, k, v projection."""

from __future__ import annotations

from torch import Tensor

from semseg_automl.peft.base import LowRankLayer


class LoRALayer(LowRankLayer):
    """h = W0 x + (alpha / r) Wd We x, without dropout; starts as the frozen layer.

    Trainable: G * r * C_in + r * rows, with the G branches and adapted rows of
    :class:`~semseg_automl.peft.base.LowRankLayer`. Accepts (B, h, w, C) and (B, N, C).
    Merges into W0 + (alpha / r) Wd We. The scaling of rsLoRA (Kalajdzievski, 2023) is alpha = a * sqrt(r).
    """

    pointwise = True
    no_merge = ""

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """W0 + (alpha / r) Wd We and the frozen bias."""
        return self.base.weight + self.scaling * self.up_matrix() @ self.down, self.base.bias
