"""Measured facts for the planner: the tables' fingerprint and what one real step costs here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from semseg_automl.core.errors import TrainingError
from semseg_automl.core.log import get_logger
from semseg_automl.data.fingerprint import thinnest_class
from semseg_automl.data.frame import Samples
from semseg_automl.data.labels import LabelMap, LabelScan, class_counts
from semseg_automl.models.devices import DeviceChoice, give_back_memory, out_of_memory
from semseg_automl.search.planner import Fingerprint, Probe, natural_side
from semseg_automl.training.fit import micro_batch
from semseg_automl.training.job import TrainJob
from semseg_automl.training.probe import StepTime, matmul_pays, time_steps

_LOG = get_logger("search")
_PROBE_SHARE = 0.05
_FLOAT32, _BF16 = "32-true", "bf16-mixed"
BF16_GAIN = 0.92
"""A step in bfloat16 must take less than this share of a step in float32 to be chosen."""
_PROBE_SIDES = ((120.0, 448), (20.0, 320), (-float("inf"), 128))
"""Side of the probe's pictures where more than so many seconds remain."""
_SMALLEST_SIDE = 64
_LONG = 20.0  # seconds from which a probe of the real size, in two precisions, is worth its time


def fingerprint(
    train: Samples, val: Samples, label_map: LabelMap, scan: LabelScan, variety: float = 1.0
) -> Fingerprint:
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
        variety=variety,
        problem_type=label_map.problem_type,
    )


def probe_speed(job: TrainJob, print_: Fingerprint, remaining: float) -> Probe:
    """Time real steps of the job's network in float32 and, if there is time, in bfloat16.

    The picture size of the probe is small where the limit is short, so that the probe takes at
    most about a twentieth of it; the cost scales with the number of pixels. (Not quite: attention
    windows are padded, so a picture that fills them is the one to measure where there is time.) On CUDA
    whole batches are measured: starting the kernels costs the same for one picture as for four.
    On a CPU without a limit it is float32, whatever these times say: the same seed is to give the same
    model, however busy the machine is.
    """
    fitting = next(side for seconds, side in _PROBE_SIDES if remaining > seconds)
    side = min(natural_side(print_), fitting)
    batch = micro_batch(job) if job.accelerator == "cuda" else min(2, job.config.optim.batch_size)
    deadline = time.perf_counter() + _PROBE_SHARE * remaining
    side, found = _time_what_fits(job, side, batch, _precisions(job, remaining), deadline)
    precision, best = _FLOAT32, found[_FLOAT32]
    if _BF16 in found and found[_BF16].train < BF16_GAIN * best.train:
        precision, best = _BF16, found[_BF16]
    _LOG.info("Speed: %.3f s a training picture of %d x %d pixels in %s.", best.train, side, side, precision)
    mpx = side * side / 1e6
    return Probe(
        train_seconds_per_mpx=best.train / mpx,
        predict_seconds_per_mpx=best.predict / mpx,
        precision=precision,
    )


def _time_what_fits(
    job: TrainJob, side: int, batch: int, precisions: Sequence[str], deadline: float
) -> tuple[int, dict[str, StepTime]]:
    """Times of the job's steps, and the side that they are of: smaller than asked where memory is short."""
    while True:
        try:
            return side, time_steps(job, (side, side), batch, precisions, deadline)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if batch == 1 and side <= _SMALLEST_SIDE:
                raise TrainingError(
                    f"Memory is too short for one training step on a picture of {side} x {side} pixels "
                    f"({type(error).__name__}: {error}). Free memory, or take a smaller backbone."
                ) from error
            _LOG.warning("Out of memory while measuring speed at %d x %d pixels: trying less.", side, side)
        give_back_memory(job.accelerator)
        side = side if batch > 1 else max(_SMALLEST_SIDE, side // 2)
        batch = 1


def _precisions(job: TrainJob, remaining: float) -> tuple[str, ...]:
    """What to measure: float32, and bfloat16 where the clock runs and the device does not emulate it."""
    lacks_it = job.accelerator == "cuda" and not torch.cuda.is_bf16_supported()
    counted = job.accelerator == "cpu" and math.isinf(remaining)
    if remaining <= _LONG or counted or job.accelerator == "mps" or lacks_it:
        return (_FLOAT32,)
    device = DeviceChoice(job.accelerator, job.device_ids).torch_device()
    try:
        return (_FLOAT32, _BF16) if matmul_pays(device, torch.bfloat16) else (_FLOAT32,)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return (_FLOAT32,)  # the probe of a step will say how short memory is
