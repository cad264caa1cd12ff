"""Measured facts for the planner: the tables' fingerprint and what one real step costs here."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from semseg_automl.core.log import get_logger
from semseg_automl.data.fingerprint import thinnest_class
from semseg_automl.data.frame import Samples
from semseg_automl.data.labels import LabelMap, LabelScan, class_counts
from semseg_automl.models.devices import DeviceChoice
from semseg_automl.search.planner import Fingerprint, Probe, natural_side
from semseg_automl.training.job import TrainJob
from semseg_automl.training.probe import matmul_pays, time_steps

_LOG = get_logger("search")
_PROBE_SHARE = 0.05
_BF16_GAIN = 0.92
_PROBE_SIDES = ((120.0, 448), (20.0, 320), (-float("inf"), 128))
"""Side of the probe's pictures where more than so many seconds remain."""
_LONG = 20.0  # seconds from which a probe of the real size, in two precisions, is worth its time


def fingerprint(train: Samples, val: Samples, label_map: LabelMap, scan: LabelScan) -> Fingerprint:
    """Sizes, class shares and thinness of the tables; a few dozen masks are read again."""
    heights, widths = zip(*train.sizes, strict=True)
    counts = class_counts(scan, label_map).sum(0).astype(np.float64)
    total = counts.sum()
    return Fingerprint(
        n_train=len(train),
        n_val=len(val),
        height=int(statistics.median(heights)),
        width=int(statistics.median(widths)),
        n_classes=label_map.n_classes,
        thinness=thinnest_class(train.masks or (), label_map),
        foreground=float(1.0 - counts.max() / total) if total else 0.0,
        rarest=float(counts[counts > 0].min() / total) if total else 1.0,
    )


def probe_speed(job: TrainJob, print_: Fingerprint, remaining: float) -> Probe:
    """Time real steps of the job's network in float32 and, if there is time, in bfloat16.

    The picture size of the probe is small where the limit is short, so that the probe takes at
    most about a twentieth of it; the cost scales with the number of pixels. (Not quite: attention
    windows are padded, so a picture that fills them is the one to measure where there is time.)
    """
    fitting = next(side for seconds, side in _PROBE_SIDES if remaining > seconds)
    side = min(natural_side(print_), fitting)
    mpx = side * side / 1e6
    batch = min(2, job.config.optim.batch_size)
    deadline = time.perf_counter() + _PROBE_SHARE * remaining
    both = remaining > _LONG and _may_use_bf16(job)
    precisions = ("32-true", "bf16-mixed") if both else ("32-true",)
    found = time_steps(job, (side, side), batch, precisions, deadline)
    precision, best = "32-true", found["32-true"]
    if "bf16-mixed" in found and found["bf16-mixed"].train < _BF16_GAIN * best.train:
        precision, best = "bf16-mixed", found["bf16-mixed"]
    _LOG.info("Speed: %.3f s a training picture of %d x %d pixels in %s.", best.train, side, side, precision)
    return Probe(
        train_seconds_per_mpx=best.train / mpx,
        predict_seconds_per_mpx=best.predict / mpx,
        precision=precision,
    )


def _may_use_bf16(job: TrainJob) -> bool:
    """Whether bfloat16 is worth a real step: the device has it and multiplies no slower in it."""
    if job.accelerator == "mps" or (job.accelerator == "cuda" and not torch.cuda.is_bf16_supported()):
        return False
    device = DeviceChoice(job.accelerator, job.device_ids).torch_device()
    return matmul_pays(device, torch.bfloat16)
