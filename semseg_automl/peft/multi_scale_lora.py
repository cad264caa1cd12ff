"""Multi-scale LoRA: Conv-LoRA's experts without its gate, the ablation "multi-scale instead of MoE".

h = W0 x + (alpha / r) Wd (z + sum_i E_i(z)),  z = We x,  E_i as in :mod:`semseg_automl.peft.conv_lora`
(Zhong et al., ICLR 2024, who compare their mixture of experts with the plain multi-scale sum).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.peft.base import Site
from semseg_automl.peft.conv_lora import ConvLoRALayer


class MultiScaleLoRALayer(ConvLoRALayer):
    """LoRA whose bottleneck is refined by the sum of 3x3 convolutions at every scale.

    The same as ``conv_lora`` with dense routing and all gates at 1 / E. Without a non-linearity the sum
    folds into one 3x3 convolution that is the same for every picture, so E scales cost what one costs.

    Trainable beside LoRA's: G * E * (9 r^2 + r). Needs a grid (B, h, w, C).

    Deliberate differences from the paper: those of ``conv_lora`` (the residual z, replicate padding), and
    a plain sum that nothing normalises. ``routing``, ``top_k`` and ``gate_scope`` have no effect; there is no
    balance loss.
    """

    no_merge = "its convolutions mix neighbouring tokens"

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        gateless = dataclasses.replace(config, routing="dense", gate_scope="image")
        super().__init__(base, site, gateless, generator)
        del self.gate

    def _gates(self, z: Tensor) -> Tensor:
        """Gates (B, 1, G, E) of 1 / E for the map z (B, h, w, G, r)."""
        experts = len(self.scales)
        return self.kernels.new_full((z.shape[0], 1, z.shape[3], experts), 1 / experts)
