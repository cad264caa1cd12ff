"""How long one real training step and one prediction take: measured, never guessed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semseg_automl.data.labels import IGNORE, read_mask
from semseg_automl.losses.weights import NO_WEIGHTS
from semseg_automl.models.cuda_graphs import PLAIN_CALLS, FastForward
from semseg_automl.models.devices import DeviceChoice, flushed_denormals, prepare_cpu
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.fit import make_segmenter, seeded_noise
from semseg_automl.training.graphs import Losses, StepGraphs, can_record
from semseg_automl.training.job import TrainJob
from semseg_automl.training.losses import StepLosses
from semseg_automl.training.validate import autocast

_ROUNDS = 3
_MASKS_READ = 8
_HOPELESS = 4.0
"""A precision whose matrix product takes this many times float32's is not tried on the network."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds per picture of a training step (forward, loss, backward) and of a prediction."""

    train: float
    predict: float

    def faster_of(self, other: StepTime) -> StepTime:
        """The smaller of each figure: disturbances only ever add."""
        return StepTime(train=min(self.train, other.train), predict=min(self.predict, other.predict))


def matmul_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a small matrix product in ``dtype`` is not far slower than in float32 on this device.

    Processors without instructions for bfloat16 emulate it, tens of times slower: there one real step
    would cost the probe more than its share of a short time limit. Takes milliseconds.
    """

    def seconds(kind: torch.dtype) -> float:
        left, right = (torch.ones(shape, device=device, dtype=kind) for shape in ((128, 256), (256, 128)))
        best = float("inf")
        for _ in range(_ROUNDS + 1):  # the first one warms up
            started = time.perf_counter()
            torch.mm(left, right)
            _wait(device)
            best = min(best, time.perf_counter() - started)
        return best

    return seconds(dtype) < _HOPELESS * seconds(torch.float32)


@flushed_denormals()
def time_steps(
    job: TrainJob, shape: tuple[int, int], batch: int, precisions: Sequence[str], deadline: float
) -> dict[str, StepTime]:
    """Measure the job's network and losses on noise of ``shape`` (H, W) in each precision.

    A warm-up round, then up to three timed ones in which the precisions take turns, so that a
    disturbance from other processes meets all of them; the fastest step counts. After ``deadline``
    (``time.perf_counter``) nothing more is started: what has no timed round answers with its warm-up,
    what was not reached is left out (the first precision is always there). Not so on CUDA, where the
    warm-up loads the kernels, which takes many times as long as the step: there is one timed round at least.
    There the warm-up also goes on until steps are replayed as they are in training, if there is time for it.
    """
    if job.accelerator == "cpu":
        prepare_cpu()
    device = DeviceChoice(job.accelerator, job.device_ids).torch_device()
    segmenter = make_segmenter(job).to(device).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, segmenter.in_channels, *shape, generator=generator).to(device)
    losses = StepLosses(segmenter, job.config, job.label_map.problem_type, _stand_in_weights(job))
    shown = _classes_shown(job) if losses.matched else job.label_map.n_classes
    masks = torch.randint(0, shown, (batch, *shape), generator=generator).to(device)
    step = _Step(segmenter, losses, can_record(job, segmenter, 1))
    warm: dict[str, StepTime] = {}
    timed: dict[str, StepTime] = {}
    for number in range(_ROUNDS + 1):
        for name in precisions:
            if time.perf_counter() > deadline and not is_needed(number, device.type, known=bool(warm)):
                return {**warm, **timed}
            with seeded_noise(job, 0):
                found = step(images, masks, name)
                while number == 0 and step.is_to_be_recorded(name) and time.perf_counter() < deadline:
                    step(images, masks, name)
            if number == 0:
                warm[name] = found
            else:
                timed[name] = found.faster_of(timed.get(name, found))
    return timed


def is_needed(number: int, kind: str, *, known: bool) -> bool:
    """Whether round ``number`` (0: the warm-up) is made even where it is late; ``known``: anything is."""
    return number < 2 if kind == "cuda" else not known


def _stand_in_weights(job: TrainJob) -> tuple[float, ...] | None:
    """Ones where a scheme weights the classes: the real ones need every mask, and cost a step the same."""
    if job.class_weights is not None or job.config.optim.class_weights == NO_WEIGHTS:
        return job.class_weights
    return (1.0,) * job.label_map.n_classes


def _classes_shown(job: TrainJob) -> int:
    """The most classes that one of a few masks, spread over the table, shows: matching costs by the class."""
    sources = job.train.masks or ()
    spread = sources[:: max(1, len(sources) // _MASKS_READ)][:_MASKS_READ]
    masks = [read_mask(source, job.label_map) for source in spread]
    return max((np.setdiff1d(mask, IGNORE).size for mask in masks), default=0) or job.label_map.n_classes


class _Step:
    """One prediction and one training step, as ``fit`` runs them: on CUDA replayed, once recorded."""

    def __init__(self, segmenter: Segmenter, losses: StepLosses, recorded: bool) -> None:
        self.segmenter = segmenter
        graphs = StepGraphs(losses, segmenter.trainable_parameters(), segmenter.adapters)
        self.losses: Losses = graphs if recorded else losses
        self.predict: Callable[[Tensor], Tensor] = FastForward(segmenter) if recorded else segmenter
        self.recorded = recorded
        self._calls: Counter[str] = Counter()

    def is_to_be_recorded(self, precision: str) -> bool:
        """Whether further calls in this precision lead to its recording."""
        return self.recorded and self._calls[precision] <= PLAIN_CALLS

    def __call__(self, images: Tensor, masks: Tensor, precision: str) -> StepTime:
        """Seconds per picture of each."""
        device, batch = images.device, len(images)
        self._calls[precision] += 1
        started = time.perf_counter()
        with torch.no_grad(), autocast(device, precision):
            self.predict(images)
        _wait(device)
        middle = time.perf_counter()
        with autocast(device, precision):
            _, total = self.losses(images, masks)
        total.backward()
        self.segmenter.zero_grad(set_to_none=True)
        _wait(device)
        ended = time.perf_counter()
        return StepTime(train=(ended - middle) / batch, predict=(middle - started) / batch)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
