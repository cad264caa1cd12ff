"""How long one real training step and one prediction take: measured, never guessed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from semseg_automl.losses.registry import resolve_loss
from semseg_automl.models.devices import prepare_cpu
from semseg_automl.training.fit import make_segmenter
from semseg_automl.training.job import TrainJob
from semseg_automl.training.validate import autocast

_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds per picture of a training step (forward, loss, backward) and of a prediction."""

    train: float
    predict: float


def time_step(job: TrainJob, shape: tuple[int, int], batch: int, precision: str, deadline: float) -> StepTime:
    """Measure the job's network on noise of ``shape`` (H, W).

    One warm-up step, then up to three timed ones; the fastest counts, as noise from other
    processes only adds. After ``deadline`` (``time.perf_counter``) no further repeat is started.
    """
    if job.accelerator == "cpu":
        prepare_cpu()
    device = torch.device(job.accelerator, job.device_ids[0] if job.accelerator == "cuda" else None)
    segmenter = make_segmenter(job).to(device).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *shape, generator=generator).to(device)
    masks = torch.randint(0, job.label_map.n_classes, (batch, *shape), generator=generator).to(device)
    loss = resolve_loss(job.config.optim.loss, job.label_map.problem_type)
    train, predict = [], []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        with torch.no_grad(), autocast(device, precision):
            segmenter(images)
        _wait(device)
        middle = time.perf_counter()
        with autocast(device, precision):
            logits = segmenter(images)
        logits = F.interpolate(logits.float(), size=shape, mode="bilinear", align_corners=False)
        loss(logits, masks).backward()
        segmenter.zero_grad(set_to_none=True)
        _wait(device)
        ended = time.perf_counter()
        predict.append((middle - started) / batch)
        train.append((ended - middle) / batch)
        if ended > deadline:
            break
    return StepTime(train=min(train), predict=min(predict))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
