"""The Lightning module of one training run: forward, loss, balance loss, optimiser, schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor

from semseg_automl.core.config import RunConfig
from semseg_automl.models.cuda_graphs import FastForward
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.peft.state import fast_parameters
from semseg_automl.training.checkpoint import Checkpoint, trained_names
from semseg_automl.training.graphs import StepGraphs
from semseg_automl.training.losses import StepLosses
from semseg_automl.training.optim import (
    WeightAverage,
    build_optimizer,
    learning_rate_factor,
    load_optimizer_tensors,
)
from semseg_automl.training.progressive import shrink


class SegmentationModule(lightning.LightningModule):
    """Fine-tunes a segmenter's trainable tensors.

    Parameters
    ----------
    segmenter
        The network; whatever has ``requires_grad`` is trained.
    config
        Loss, optimiser, schedule and balance loss are read from it.
    problem_type
        "binary" or "multiclass".
    fraction
        Fraction (0..1) of the run that is over at a given step; drives the schedule.
    class_weights
        Weights of the classes in the loss, or None.
    world
        Number of processes that train together. Alone, a loss that is not finite raises before it
        reaches the weights; together, where raising would leave the others waiting, it shows in
        ``last_loss`` (and, through the summed gradients, in every process's weights).
    start
        The state that the run goes on from, or None.
    decay
        See ``TrainJob``.

    Attributes
    ----------
    losses
        The task's loss and the total of images and masks.
    graphs
        What replays ``losses`` as CUDA graphs, or None.
    forward_fast
        The segmenter without gradients, replayed where that pays; for validations.

    Notes
    -----
    Processes that train together average gradients, so loss terms that are means over pictures
    (the structure loss) are those of the whole batch. The balance loss and soft Dice are not:
    they are computed on each process's share (as on each micro-batch) and then averaged.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        config: RunConfig,
        problem_type: str,
        fraction: Callable[[int], float],
        class_weights: tuple[float, ...] | None = None,
        *,
        world: int = 1,
        start: Checkpoint | None = None,
        decay: float | None = None,
    ) -> None:
        super().__init__()
        self.world = world
        self.segmenter = segmenter
        self.config = config
        self.fraction = fraction
        self.losses = StepLosses(segmenter, config, problem_type, class_weights)
        self.average = WeightAverage(segmenter.trainable_parameters(), config.optim.ema_decay)
        self.last_loss = math.nan
        self.pixel_share = 1.0  # of a picture at full size, that the latest step saw
        self.start = start
        self.decay = decay
        self.graphs: StepGraphs | None = None
        self.forward_fast = FastForward(segmenter)
        self.first_step = 0
        if start is not None:
            self._go_on_from(start)

    def _go_on_from(self, start: Checkpoint) -> None:
        names = trained_names(self)
        with torch.no_grad():
            for name, parameter in zip(names, self.average.parameters, strict=True):
                parameter.copy_(start.weights[name])
        self.average.load([start.average[name] for name in names], start.updates)
        self.first_step = start.step

    @property
    def steps(self) -> int:
        """Optimiser steps of the run so far, those before it was interrupted included."""
        return self.first_step + int(self.global_step)

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        """Task loss at the mask's resolution plus the weighted balance loss of the adapters."""
        image, mask = batch["image"], batch["mask"]
        small = self.fraction(self.steps) < self.config.optim.small_share
        self.pixel_share = self.config.optim.small_scale**2 if small else 1.0
        if small:
            image, mask = shrink(image, mask, self.config.optim.small_scale)
        loss, total = (self.graphs or self.losses)(image, mask)
        both = torch.stack([loss.detach(), total.detach()]).tolist()  # one wait for the device
        self.last_loss = both[0] if math.isfinite(both[1]) else both[1]
        if self.world == 1 and not math.isfinite(self.last_loss):
            raise FloatingPointError(f"the loss is {self.last_loss} at step {self.steps}")
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adapter and head in groups of their own."""
        optimizer = build_optimizer(
            self.segmenter.adapter_parameters(),
            self.segmenter.head_parameters(),
            self.config.optim,
            fast=fast_parameters(self.segmenter.encoder),
        )
        if self.start is not None:
            load_optimizer_tensors(optimizer, self.start.optimizer)
        return optimizer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the norm of all gradients together.

        Not left to the Trainer's ``gradient_clip_val``: in mixed precision Lightning refuses it with fused
        optimisers, which undo a scaler's work within their step; no precision of a ``TrainJob`` has one.
        """
        if self.config.optim.gradient_clip:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.gradient_clip)

    def optimizer_step(self, _epoch: int, _batch: int, optimizer: Any, closure: Any = None) -> None:
        """Set the learning rates from the run's fraction, step, update the weight average."""
        factor = learning_rate_factor(self.fraction(self.steps), self.config.optim, self.decay)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        optimizer.step(closure=closure)
        self.average.update()
