"""Noisy top-k gates over experts (Shazeer et al., ICLR 2017, equations 3 to 10) and their balance loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NOISE_FLOOR = 1e-2


class NoisyTopKGate(nn.Module):
    """Gates of G branches from pooled features.

    Learned routing: the experts of the k largest noisy logits are kept, with the values of the softmax over
    all experts, so that a gate multiplies its expert and the task's gradient reaches it. (Shazeer's softmax
    over the k kept logits is constant for k = 1: ``compat``.) In training the logits carry noise
    eps * (softplus(x W_noise) + 0.01), which also breaks ties at random; in evaluation they go where
    ``torch.topk`` puts them. In learned routing the noise decides which experts are kept and the kept values
    come from the noiseless softmax: the largest of E noisy gates would be about twice the one that evaluation
    uses.

    Parameters
    ----------
    branches, rank, num_experts, top_k : int
    mode : str
        "learned", "dense" (all kept, no noise) or "compat".
    """

    def __init__(
        self, branches: int, rank: int, num_experts: int, top_k: int, mode: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.top_k = num_experts if mode == "dense" else top_k
        self.mode = mode
        shape = (branches, rank, num_experts)
        start = torch.zeros(shape) if mode == "compat" else 1e-2 * torch.randn(shape, generator=generator)
        self.weight = nn.Parameter(start)
        self.noise = None if mode == "dense" else nn.Parameter(torch.zeros(shape))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return gates (N, G, E), zero where not kept, and the balance loss (training only, else None).

        ``pooled``: (N, G, r), the mean of We x over the image or the window; computed in
        float32 at least, whatever the autocast.
        """
        with torch.autocast(pooled.device.type, enabled=False):
            pooled = pooled.to(self.weight.dtype)
            clean = torch.einsum("ngr,gre->nge", pooled, self.weight)
            std = None
            logits = clean
            if self.training and self.noise is not None:
                raw = torch.einsum("ngr,gre->nge", pooled, self.noise)
                std = nn.functional.softplus(raw) + NOISE_FLOOR
                logits = clean + torch.randn_like(clean) * std
            kept = logits.topk(self.top_k, dim=-1).indices
            mask = torch.zeros_like(logits).scatter(-1, kept, 1.0)
            if self.mode == "compat":
                probabilities = logits.masked_fill(mask == 0, -torch.inf).softmax(-1)
            else:
                probabilities = clean.softmax(-1)
                if std is not None:  # W_noise learns from the load; its task gradient is 0, never missing
                    probabilities = probabilities + 0.0 * std
            loss = self._balance(probabilities, clean, logits, std) if self.training else None
            return probabilities * mask, loss

    def _balance(self, probabilities: Tensor, clean: Tensor, logits: Tensor, std: Tensor | None) -> Tensor:
        """cv^2(importance) + cv^2(load), mean over branches. Dense routing has no load.

        Importance is the sum of ``probabilities`` over the samples. In compat those are the kept gates, as
        in Shazeer's equation 6. In learned routing they are the whole softmax without noise, kept or not, so
        that every sample gives a gradient to the logits of all experts and the value doesn't jump with the
        noise. The kept gates alone name at most N k of the E experts: with few pictures and k = 1 their cv^2
        says how small the batch is, not how uneven the gate. (What is really kept is the load's part.)
        """
        loss = coefficient_of_variation_squared(probabilities.sum(0))
        if std is not None and self.top_k < logits.shape[-1]:
            loss = loss + coefficient_of_variation_squared(smooth_load(clean, logits, std, self.top_k))
        return loss.mean()


def coefficient_of_variation_squared(x: Tensor) -> Tensor:
    """Variance over squared mean along the last axis (unbiased variance, as released); 0 for one expert."""
    if x.shape[-1] == 1:
        return x.sum(-1) * 0.0
    return x.var(-1) / (x.mean(-1) ** 2 + 1e-10)


def smooth_load(clean: Tensor, noisy: Tensor, std: Tensor, top_k: int) -> Tensor:
    """Differentiable count of samples per expert: sum over samples of P(expert kept | other noise fixed).

    Shazeer et al. 2017, equation 9. Shapes (N, ..., E) -> (..., E). Needs top_k < E.
    """
    top = noisy.topk(top_k + 1, dim=-1).values
    if_in, if_out = top[..., top_k : top_k + 1], top[..., top_k - 1 : top_k]
    threshold = torch.where(noisy > if_in, if_in, if_out)
    return torch.special.ndtr((clean - threshold) / std).sum(0)
