"""Forward, loss and backward of a training step as one CUDA graph (see ``models.cuda_graphs``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from semseg_automl.models.cuda_graphs import Recorder, Recording, wanted
from semseg_automl.models.decoder import MaskClassificationHead
from semseg_automl.models.segmenter import Segmenter
from semseg_automl.training.job import TrainJob

Losses = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images, masks) -> the task's loss and the total, scalars."""


class Replay(torch.autograd.Function):
    """The losses of a recorded step; backward scales the gradients that the replay left.

    The recording's outputs are the task's loss, the total, and the total's gradients for the parameters (None
    for those that have no part in it).
    """

    @staticmethod
    def forward(
        ctx: Any, step: Recording, images: Tensor, masks: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Task loss and total, scalars."""
        step.replay((images, masks))
        task, total, ctx.gradients = step.outputs
        task, total = task.clone(), total.clone()
        ctx.mark_non_differentiable(task)
        return task, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _task: Tensor, factor: Tensor) -> tuple[Tensor | None, ...]:
        """Fresh tensors, since the next replay overwrites the recording's own."""
        scaled = iter(torch._foreach_mul([g for g in ctx.gradients if g is not None], factor))
        return None, None, None, *(None if g is None else next(scaled) for g in ctx.gradients)


class StepGraphs:
    """Stands for a function of images and masks that gives two losses; replays it where that pays.

    Parameters
    ----------
    losses : the function.
    parameters : what the total is differentiated for.
    layers : their ``aux_loss`` is dropped around a recording, for it holds on to a graph.
    timer : see :class:`~semseg_automl.models.cuda_graphs.Recorder`.
    """

    def __init__(
        self,
        losses: Losses,
        parameters: Sequence[nn.Parameter],
        layers: Sequence[Any],
        *,
        timer: Callable[[Callable[[], Any]], float] | None = None,
    ) -> None:
        self.losses = losses
        self.parameters = list(parameters)
        self.layers = list(layers)
        self.recorder = Recorder(self._differentiate, forget=self._forget, timer=timer)

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Task loss and total with their graph."""
        step = self.recorder.find((images, masks))
        if step is None:
            return self.losses(images, masks)
        task, total = Replay.apply(step, images, masks, *self.parameters)
        return task, total

    def _forget(self) -> None:
        for layer in self.layers:
            layer.aux_loss = None

    def _differentiate(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
        task, total = self.losses(images, masks)
        return task.detach(), total.detach(), torch.autograd.grad(total, self.parameters, allow_unused=True)


def can_record(job: TrainJob, segmenter: Segmenter, world: int) -> bool:
    """Whether a job's steps are such that a graph may stand for them.

    Not so elsewhere than on one CUDA device, in float16 (whose loss is scaled after the forward pass),
    where features come from a store, where the backward pass computes activations again, and with
    the head that matches queries with masks on the host.
    """
    return (
        job.accelerator == "cuda"
        and world == 1
        and job.precision != "16-mixed"
        and segmenter.cached_lower is None
        and not job.config.model.gradient_checkpointing
        and not isinstance(segmenter.decoder, MaskClassificationHead)
        and wanted()
    )
