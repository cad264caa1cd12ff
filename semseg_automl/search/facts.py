"""Measured facts for the planner: the tables' fingerprint and what one real step costs here."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import Samples
from semseg_automl.data.labels import LabelMap, LabelScan
from semseg_automl.search.planner import Fingerprint, Probe, natural_side
from semseg_automl.training.job import TrainJob
from semseg_automl.training.probe import time_step

_LOG = get_logger("search")
_PROBE_SHARE = 0.05
_BF16_GAIN = 0.92


def fingerprint(train: Samples, val: Samples, label_map: LabelMap, scan: LabelScan) -> Fingerprint:
    """Sizes and class shares of the tables; nothing is read again."""
    heights, widths = zip(*train.sizes, strict=True)
    counts = scan.counts(label_map.values).sum(0).astype(np.float64)
    total = counts.sum()
    return Fingerprint(
        n_train=len(train),
        n_val=len(val),
        height=int(statistics.median(heights)),
        width=int(statistics.median(widths)),
        n_classes=label_map.n_classes,
        foreground=float(1.0 - counts.max() / total) if total else 0.0,
    )


def probe_speed(job: TrainJob, print_: Fingerprint, remaining: float) -> Probe:
    """Time real steps of the job's network in float32 and, if there is time, in bfloat16.

    The picture size of the probe is small where the limit is short, so that the probe takes at
    most about a twentieth of it; the cost scales with the number of pixels.
    """
    side = min(natural_side(print_), 384 if remaining > 30 else 128)
    shape = (side, side)
    batch = min(2, job.config.optim.batch_size)
    mpx = side * side / 1e6
    deadline = time.perf_counter() + _PROBE_SHARE * remaining
    best = time_step(job, shape, batch, "32-true", deadline)
    precision = "32-true"
    if job.accelerator != "mps" and time.perf_counter() < deadline and _has_bf16(job.accelerator):
        other = time_step(job, shape, batch, "bf16-mixed", deadline)
        if other.train < _BF16_GAIN * best.train:
            best, precision = other, "bf16-mixed"
    _LOG.info("Speed: %.3f s a training picture of %d x %d pixels in %s.", best.train, side, side, precision)
    return Probe(
        train_seconds_per_mpx=best.train / mpx,
        predict_seconds_per_mpx=best.predict / mpx,
        precision=precision,
    )


def _has_bf16(accelerator: str) -> bool:
    return accelerator == "cpu" or (accelerator == "cuda" and torch.cuda.is_bf16_supported())
