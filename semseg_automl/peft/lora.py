"""LoRA (Hu et al., ICLR 2022, equation 3) on the fused q, k, v projection."""

from __future__ import annotations

from semseg_automl.peft.base import LowRankLayer


class LoRALayer(LowRankLayer):
    """h = W0 x + (alpha / r) Wd We x, without dropout; starts as the frozen layer.

    Trainable: G * r * C_in + r * rows, with the G branches and adapted rows of
    :class:`~semseg_automl.peft.base.LowRankLayer`. Accepts (B, h, w, C) and (B, N, C).
    """
