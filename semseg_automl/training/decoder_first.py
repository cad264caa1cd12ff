"""The decoder learns first, from the frozen encoder's features; then everything learns together.

A decoder that is new to the classes sends noise back into the encoder, and features that were bent by
noise fit the training pictures and fail on others: Kumar et al., "Fine-Tuning can Distort Pretrained
Features and Underperform Out-of-Distribution", ICLR 2022, whose remedy this is (there a linear head).
It is cheap as well: adapters start as nothing, so each picture is encoded once, and a step costs the
decoder alone.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semseg_automl.core.log import get_logger
from semseg_automl.data.dataset import SegmentationDataset
from semseg_automl.losses.registry import resolve_loss
from semseg_automl.models.encoders.base import EncoderOutput
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.job import Hooks, TrainJob
from semseg_automl.training.optim import build_optimizer
from semseg_automl.training.validate import autocast, eval_mode

_LOG = get_logger("training")
SHARE = 0.15
"""Of the time left, at most; half of it for encoding."""
PICTURES, BYTES = 128, 2**29
"""Features kept in memory, at most."""
Encoded = tuple[EncoderOutput, Tensor]


def train_decoder_first(
    segmenter: Segmenter, dataset: SegmentationDataset, job: TrainJob, hooks: Hooks, run_steps: int
) -> float:
    """Train the head of a fresh segmenter for ``job.config.optim.decoder_steps`` steps; returns seconds.

    At most half as many steps as the run that follows has (``run_steps``), at most ``SHARE`` of the time
    left, on up to ``PICTURES`` pictures, each in one augmented form. Random numbers come from
    ``job.seed``; global generators are left alone. Should the loss cease to be finite, the head is put
    back to its start.
    """
    started = time.perf_counter()
    steps = min(job.config.optim.decoder_steps, run_steps // 2)
    if steps < 1:
        return 0.0
    left = SHARE * hooks.remaining()  # may be inf
    rng = np.random.default_rng([job.seed, 1])
    encoded = _encode(segmenter, dataset, job, rng, started + left / 2)
    done = _train(segmenter, encoded, job, hooks, rng, steps, started + left)
    segmenter.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    _LOG.info("Decoder first: %d steps on %d pictures, %.0f s.", done, len(encoded), seconds)
    return seconds


def _encode(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    job: TrainJob,
    rng: np.random.Generator,
    deadline: float,
) -> list[Encoded]:
    """Features (bfloat16) and masks of random pictures, one at least."""
    device = next(segmenter.parameters()).device
    encoded: list[Encoded] = []
    size = 0
    with eval_mode(segmenter):
        for i in rng.permutation(len(dataset))[:PICTURES].tolist():
            item = dataset[(0, i)]
            with autocast(device, job.precision):
                found = segmenter.encoder(item["image"][None].to(device))
            kept = EncoderOutput(_small(found.embedding), {s: _small(x) for s, x in found.skips.items()})
            encoded.append((kept, item["mask"][None].to(device)))
            size += sum(2 * x.numel() for x in (kept.embedding, *kept.skips.values()))
            if time.perf_counter() > deadline or size > BYTES:
                break
    return encoded


def _train(
    segmenter: Segmenter,
    encoded: list[Encoded],
    job: TrainJob,
    hooks: Hooks,
    rng: np.random.Generator,
    steps: int,
    deadline: float,
) -> int:
    """Steps of the head alone; returns how many were made."""
    optim, head = job.config.optim, segmenter.head_parameters()
    start = [p.detach().clone() for p in head]
    optimizer = build_optimizer([], head, optim)
    loss = resolve_loss(optim.loss, job.label_map.problem_type)
    weights = None if job.class_weights is None else torch.tensor(job.class_weights, device=head[0].device)
    for step in range(steps):
        if time.perf_counter() > deadline or hooks.stop_requested():
            return step
        features, masks = _batch(encoded, rng, optim.batch_size)
        logits = segmenter.decoder(features)
        # (B, K, H/4, W/4) -> (B, K, H, W)
        logits = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False)
        value = loss(logits, masks, class_weights=weights)
        if not math.isfinite(value.item()):
            with torch.no_grad():
                for parameter, first in zip(head, start, strict=True):
                    parameter.copy_(first)
            _LOG.warning("The decoder's first training met a loss that is not finite; it starts anew.")
            return 0
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if optim.gradient_clip:
            torch.nn.utils.clip_grad_norm_(head, optim.gradient_clip)
        optimizer.step()
    return steps


def _batch(encoded: list[Encoded], rng: np.random.Generator, size: int) -> tuple[EncoderOutput, Tensor]:
    """A random picture and others of its shape, up to ``size``."""
    first = int(rng.integers(len(encoded)))
    shape = encoded[first][1].shape
    alike = [i for i, (_, mask) in enumerate(encoded) if mask.shape == shape and i != first]
    others = rng.permutation(alike)[: size - 1].tolist() if alike else []
    chosen = [encoded[i] for i in (first, *others)]
    features = [found for found, _ in chosen]
    joined = EncoderOutput(
        torch.cat([f.embedding for f in features]),
        {s: torch.cat([f.skips[s] for f in features]) for s in features[0].skips},
    )
    return joined, torch.cat([mask for _, mask in chosen])


def _small(x: Tensor) -> Tensor:
    """A copy in bfloat16; outside of inference mode, so that a graph may hold it."""
    with torch.inference_mode(False):
        return x.to(torch.bfloat16, copy=True)
