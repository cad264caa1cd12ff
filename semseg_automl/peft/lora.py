"""LoRA (Hu et al., ICLR 2022, equation 3) on q, k, v or any other linear layer of a block."""

from __future__ import annotations

from torch import Tensor

from semseg_automl.peft.base import LowRankLayer


class LoRALayer(LowRankLayer):
    """h = W0 x + s Wd We x, without dropout; starts as the frozen layer.

    Trainable: G * r * C_in + r * rows, with the G branches and adapted rows of
    :class:`~semseg_automl.peft.base.LowRankLayer`. Accepts (B, h, w, C) and (B, N, C).
    Merges into W0 + s Wd We.

    Deliberate differences from the paper: We starts kaiming-uniform, as in its authors' code, where the paper
    has a Gaussian; the default places are q, k and v, where the paper's are q and v; and by default q, k and
    v share one We (an update of rank r of the fused projection), where the paper's matrices each have their
    own: that is ``qkv="separate"``. No dropout on the update's input, which the authors' code offers.
    """

    pointwise = True
    no_merge = ""

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """W0 + s Wd We and the frozen bias."""
        return self.base.weight + self.scaling * self.up_matrix() @ self.down, self.base.bias
