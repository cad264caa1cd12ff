"""Whole networks with every trained value off its start, and what a training step gives on a device."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.losses.functional import ce_dice
from semseg_automl.models.build import SAM_TINY, build_segmenter
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.models.decoder import SemanticHead
from semseg_automl.models.encoders.sam_vit import SamViTConfig, SamViTEncoder
from semseg_automl.models.encoders.tiny_vit import TinyViTEncoder
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.inject import collect_balance_loss, inject

CUDA = torch.device("cuda")
SMALL_SAM = SamViTConfig(dim=64, depth=3, heads=2, global_blocks=(1,), window=4, embed_dim=64, grid=8)
CLASSES = 3


def make_network(family: str, adapter: AdapterConfig, shift: float = 0.05) -> Segmenter:
    """A network on the CPU, in training mode: "sam_vit" and "sam_tiny" at random, or "mobile_sam"."""
    torch.manual_seed(0)
    if family == "mobile_sam":
        config = RunConfig().replace(backbone=family, **vars(adapter))
        network = build_segmenter(config, CLASSES, weights=resolve_weights(family))
    else:
        encoder = SamViTEncoder(SMALL_SAM) if family == "sam_vit" else TinyViTEncoder(SAM_TINY)
        for parameter in encoder.parameters():  # position tables start at 0
            parameter.data += 0.02 * torch.randn_like(parameter)
        adapters = inject(encoder, encoder.sites(), adapter)
        head = SemanticHead(
            CLASSES, embed_dim=64, num_heads=4, mlp_dim=128, skip_channels=encoder.skip_channels
        )
        network = Segmenter(encoder, head, adapters)
    for parameter in network.adapter_parameters():
        parameter.data += shift * torch.randn_like(parameter) * parameter.abs().mean().clamp(0.02, 1.0)
    return network.train()


def batch_of(size: tuple[int, int], count: int = 2) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) and masks (B, H, W) with ignored pixels, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, *size, generator=generator)
    masks = torch.randint(-1, CLASSES, (count, *size), generator=generator)
    return images, masks


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a training step gave, on the CPU."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def step_on(
    network: Segmenter, batch: tuple[Tensor, Tensor], device: Any, dtype: torch.dtype = torch.float32
) -> Step:
    """Forward and backward of a copy on ``device``; bfloat16 means autocast."""
    twin = copy.deepcopy(network).to(device)
    images, masks = (t.to(device) for t in batch)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = twin(images)
    balance = 0.01 * collect_balance_loss(twin.adapters)
    loss = ce_dice(F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear"), masks) + balance
    loss.backward()
    trained = {name: p.grad for name, p in twin.named_parameters() if p.requires_grad}
    missing = [name for name, grad in trained.items() if grad is None]
    assert not missing, f"no gradient for {missing}"
    gradients = {name: grad.float().cpu() for name, grad in trained.items() if grad is not None}
    return Step(logits=logits.detach().float().cpu(), loss=loss.detach().cpu(), gradients=gradients)


def assert_same(found: Step, expected: Step, relative: float = 1e-4) -> None:
    """Logits to ``relative`` of the largest; gradients to ten times that of each tensor's largest.

    A gradient that is rounding alone, beside the network's largest, is not compared more finely than that.
    """
    scale = float(expected.logits.abs().max())
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=relative * scale)
    torch.testing.assert_close(found.loss, expected.loss, rtol=relative, atol=1e-6)
    assert found.gradients.keys() == expected.gradients.keys()
    largest = max(float(g.abs().max()) for g in expected.gradients.values())
    wrong = {}
    for name, wanted in expected.gradients.items():
        allowed = 10 * relative * float(wanted.abs().max()) + 0.1 * relative * largest
        difference = float((found.gradients[name] - wanted).abs().max())
        if not difference <= allowed:
            wrong[name] = (difference, allowed)
    assert not wrong, f"gradients differ (by, allowed): {wrong}"
