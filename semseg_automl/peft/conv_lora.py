"""Conv-LoRA (Zhong et al., ICLR 2024, arXiv 2401.17868): LoRA with multi-scale convolutional experts.

h = W0 x + (alpha / r) Wd (z + E * sum_i g_i E_i(z)),  z = We x,
E_i(z) = down_s(conv3x3(up_s(z))) with s = scales[i].

Deliberate differences from the paper's equation 3:

- a residual z, so that it starts as LoRA does (the released code has it too);
- gates are the values of a softmax over all experts, so that they get a task gradient; the factor E makes
  a gate about 1 at the start. By default every expert counts with its gate (``routing="dense"``): folded, all
  cost what one costs. With ``routing="learned"`` the best ``top_k`` are kept, as in the paper: noise picks
  them in training, and their values come from the softmax without noise (:mod:`semseg_automl.peft.gate`);
- one adapter on the fused q, k, v, as in the released code (``qkv="fused"``, the default); the paper writes
  one each for q, k and v, which is ``qkv="separate"``;
- bilinear interpolation (the released code's is bicubic) and replicate padding at every scale, which make
  the folded form of :mod:`semseg_automl.peft.fold` exact;
- the experts' convolutions have biases b_i, as in the released code;
- the balance loss has the further factor ``balance_scale``, as in the released code.

``routing="compat"`` is the released code's behaviour instead: GELU, bicubic, zero padding, each window apart,
gates by a softmax over the kept noisy logits (1 where one is kept), without the factor E.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.peft.base import LowRankLayer, Site, kaiming_uniform
from semseg_automl.peft.experts import gelu_mixture
from semseg_automl.peft.fold import TAPS, conv_valid, fold_matrices, mix_kernels, replicate_pad
from semseg_automl.peft.gate import NoisyTopKGate
from semseg_automl.peft.windows import halo_windows, merge_windows, partition_windows


class ConvLoRALayer(LowRankLayer):
    """LoRA whose bottleneck is refined by a gated mixture of 3x3 convolutions at several scales.

    Without a non-linearity the mixture of each sample is one folded 3x3 convolution, so scale
    8 costs what scale 1 costs and dense routing what one expert costs. ``gate_scope`` "image"
    (default) pools the gate over the whole map, padding included, "window" over each attention
    window; ``window_padding`` "image" (default) lets the convolution see across window borders,
    "window" repeats each window's border. Both matter only at q, k, v of blocks with windows: behind the
    attention and in the MLP the map is whole.

    Trainable beside LoRA's: G * (E * (9 r^2 + r) + 2 r E) (r E instead of 2 r E when dense).

    Attributes
    ----------
    kernels : Parameter (G, E, r, r, 3, 3)
    bias : Parameter (G, E, r)
    gate : NoisyTopKGate
    """

    needs_grid = True
    no_merge = "its convolutions mix neighbouring tokens and its gates depend on the picture"
    folds: Tensor

    def __init__(
        self, base: nn.Linear, site: Site, config: AdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__(base, site, config, generator)
        compat = config.routing == "compat"
        self.scales = config.scales or tuple(range(1, config.num_experts + 1))
        self.compat = compat
        self.nonlinearity = "gelu" if compat else config.nonlinearity
        scope, padding = ("window", "window") if compat else (config.gate_scope, config.window_padding)
        window = site.window if site.kind == "qkv" else 0
        self.gate_window = window if scope == "window" else 0
        self.pad_window = window if padding == "window" else 0
        g, r, e = self.branches, self.rank, config.num_experts
        self.kernels = nn.Parameter(kaiming_uniform((g, e, r, r, 3, 3), generator, fan_in=TAPS * r))
        self.bias = nn.Parameter(torch.zeros(g, e, r))
        self.gate = NoisyTopKGate(g, r, e, config.top_k, config.routing, generator)
        self.register_buffer("folds", fold_matrices(self.scales).to(base.weight.dtype), persistent=False)

    def transform(self, z: Tensor) -> Tensor:
        """z + E * sum_i g_i E_i(z) on (B, h, w, G*r)."""
        if z.dim() != 4:
            raise ConfigError(
                f"conv_lora at {self.site.name!r} needs a grid (B, h, w, C), not {z.dim()} axes; "
                "use adapter='lora' where tokens have no grid."
            )
        b, h, w, _ = z.shape
        window = self.site.window
        if window and (self.gate_window or self.pad_window) and (h % window or w % window):
            raise ConfigError(
                f"conv_lora at {self.site.name!r}: the {h} x {w} map is no multiple of the {window}-token "
                "window; the encoder must pad before the projection."
            )
        z = z.reshape(b, h, w, self.branches, self.rank)
        gates = self._gates(z)  # (B, nW, G, E)
        z = z.permute(0, 3, 1, 2, 4).reshape(-1, h, w, self.rank)  # (B, h, w, G, r) -> (B*G, h, w, r)
        u = self._mixture(z, gates) if self.nonlinearity == "none" else self._with_gelu(z, gates)
        if self.branches == 1:
            return u
        return u.view(b, self.branches, h, w, self.rank).permute(0, 2, 3, 1, 4).reshape(b, h, w, -1)

    def _gates(self, z: Tensor) -> Tensor:
        """Gates (B, nW, G, E) of the map z (B, h, w, G, r); nW = 1 where an image is routed as a whole."""
        b, h, w, g, r = z.shape
        if self.gate_window:
            s = self.gate_window
            pooled = z.view(b, h // s, s, w // s, s, g, r).mean((2, 4))  # (B, h/s, w/s, G, r)
        else:
            pooled = z.mean((1, 2))
        gates, self.aux_loss = self.gate(pooled.reshape(-1, g, r))
        return gates.view(b, -1, g, gates.shape[-1])

    def _mixture(self, z: Tensor, gates: Tensor) -> Tensor:
        """The folded form on z (B*G, h, w, r): one convolution for each sample, branch and window."""
        kernels, bias = self._mixed_kernels(gates)  # (B*G, nW, 9*r, r), (B*G, nW, r)
        window = self.gate_window or self.pad_window
        if not window:
            return conv_valid(replicate_pad(z), kernels[:, 0], bias[:, 0])
        n, h, w, r = z.shape
        if self.pad_window:
            windows = replicate_pad(partition_windows(z, window))
        else:
            windows = halo_windows(replicate_pad(z), window)
        count = (h // window) * (w // window)
        kernels = kernels.expand(n, count, -1, -1).reshape(n * count, -1, r)
        bias = bias.expand(n, count, -1).reshape(n * count, r)
        return merge_windows(conv_valid(windows, kernels, bias), (h, w))

    def _mixed_kernels(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """I + E sum_i g_i fold(K_i) and E sum_i g_i b_i; tiny, so in the parameters' own precision."""
        with torch.autocast(gates.device.type, enabled=False):
            weights = gates.transpose(1, 2) * len(self.scales)  # (B, G, nW, E)
            return mix_kernels(self.kernels, self.bias, weights, self.folds)

    def _with_gelu(self, z: Tensor, gates: Tensor) -> Tensor:
        """The form with a GELU on z (B*G, h, w, r): z + factor * sum_i g_i E_i(z), expert by expert."""
        n, h, w, _ = z.shape
        factor = 1.0 if self.compat else float(len(self.scales))
        # (B, nW, G, E) -> (B*G, nW, E)
        weights = gates.transpose(1, 2).reshape(n, -1, len(self.scales)) * factor
        units, window = z, self.gate_window or self.pad_window
        if self.pad_window:
            units = partition_windows(z, window)  # (B*G*nW, s, s, r)
            count = units.shape[0]
            weights = weights.expand(n, count // n, -1).reshape(count, 1, 1, weights.shape[-1])
        elif self.gate_window:
            weights = weights.view(n, h // window, w // window, -1)
            weights = weights.repeat_interleave(window, 1).repeat_interleave(window, 2)  # (B*G, h, w, E)
        else:
            weights = weights.unsqueeze(1)  # (B*G, 1, 1, E)
        each = units.shape[0] // n
        branch = torch.arange(units.shape[0], device=z.device) // each % self.branches  # (units,)
        out = gelu_mixture(units, weights, branch, self.kernels, self.bias, self.scales, compat=self.compat)
        return merge_windows(out, (h, w)) if self.pad_window else out
