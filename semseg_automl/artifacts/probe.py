"""A fixed input and the model's output for it, stored with the model and compared on loading.

It catches what checksums can't: another backbone, another code path, a head that was not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from semseg_automl.core.errors import ProbeError

TOLERANCE = 1e-2
"""Largest allowed difference, relative to the largest logit: room for other hardware and float formats."""


SIDE = 64
"""Height and width of the stored picture."""


def probe_shapes(num_outputs: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Shapes of what :func:`make_probe` returns for a model of C channels with K outputs."""
    return {"image": (channels, SIDE, SIDE), "logits": (num_outputs, SIDE // 4, SIDE // 4)}


def make_probe(segmenter: nn.Module, *, side: int = SIDE, seed: int = 0) -> dict[str, torch.Tensor]:
    """Run a fixed random picture through the model.

    Returns
    -------
    dict
        "image" (C, side, side) float32, standard normal; "logits" (K, side/4, side/4) float32.
    """
    channels = getattr(segmenter, "in_channels", 3)
    image = torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "logits": _logits(segmenter, image)}


def check_probe(segmenter: nn.Module, probe: Mapping[str, torch.Tensor]) -> float:
    """Compare the model's output with the stored one; return the relative difference.

    Raises
    ------
    ProbeError
        The probe is not of its form, or the difference exceeds ``TOLERANCE``.
    """
    if set(probe) != {"image", "logits"}:
        raise ProbeError(f"The model's probe must hold 'image' and 'logits', found {sorted(probe)}.")
    found, stored = _logits(segmenter, probe["image"]), probe["logits"].float()
    if found.shape != stored.shape:
        raise ProbeError(
            f"The loaded model gives outputs of shape {tuple(found.shape)}, at saving it was "
            f"{tuple(stored.shape)}: it is not the model that was saved."
        )
    difference = float((found - stored).abs().max() / stored.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE:
        raise ProbeError(
            f"The loaded model does not compute what it computed at saving: its output for the stored "
            f"probe differs by {difference:.2g} of the largest logit (allowed {TOLERANCE:g}). Most "
            "likely the backbone's weights are others."
        )
    return difference


def _logits(segmenter: nn.Module, image: torch.Tensor) -> torch.Tensor:
    parameter = next(segmenter.parameters())
    was_training = segmenter.training
    segmenter.eval()
    try:
        with torch.no_grad():
            batch = image.to(parameter.device, parameter.dtype)[None]  # (C, H, W) -> (1, C, H, W)
            return segmenter(batch)[0].float().cpu()  # (1, K, h, w) -> (K, h, w)
    finally:
        segmenter.train(was_training)
