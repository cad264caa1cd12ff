"""Optimisers, parameter groups, the learning-rate schedule and the weight average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semseg_automl.core.config import OptimConfig
from semseg_automl.core.errors import unknown_name

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def cosine(fraction: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


def warmup_stable_decay(fraction: float, decay: float = 0.4) -> float:
    """Constant, then linear to 0 over the last share ``decay`` of the run (Hu et al., MiniCPM, 2024).

    With ``decay=0`` it stays constant: the run is paused before its decay begins.
    """
    return 1.0 if fraction <= 1.0 - decay else (1.0 - fraction) / decay


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "wsd": warmup_stable_decay,
    "constant": lambda _fraction: 1.0,
}


def learning_rate_factor(fraction: float, config: OptimConfig, decay: float | None = None) -> float:
    """Factor on every peak learning rate at ``fraction`` (0..1) of the run.

    Linear warm-up over the first ``config.warmup`` of the run, then the schedule. Never below
    0.001, so that the last steps before a deadline are not wasted. ``decay`` is that of "wsd"; None:
    its own.
    """
    if config.schedule not in SCHEDULES:
        raise unknown_name("schedule", config.schedule, SCHEDULES)
    fraction = min(max(fraction, 0.0), 1.0)
    ramp = min(1.0, (fraction + 1e-4) / config.warmup) if config.warmup > 0 else 1.0
    if config.schedule == "wsd" and decay is not None:
        return max(1e-3, ramp * warmup_stable_decay(fraction, decay))
    return max(1e-3, ramp * SCHEDULES[config.schedule](fraction))


def build_optimizer(
    adapter: Iterable[nn.Parameter],
    head: Iterable[nn.Parameter],
    config: OptimConfig,
    fast: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Build the optimiser: adapter and head with their own rates, no decay on vectors.

    ``fast`` are those of the adapter that LoRA+ trains ``lora_plus_ratio`` times faster. Tensors with
    fewer than two dimensions (biases, norms) are not decayed. Each group stores its peak rate under
    ``peak_lr``.
    """
    if config.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer, OPTIMIZERS)
    groups: list[dict[str, Any]] = []
    faster = {id(p) for p in fast} if config.lora_plus_ratio != 1.0 else set()
    adapter = list(adapter)
    rated = (
        ([p for p in adapter if id(p) not in faster], config.learning_rate),
        ([p for p in adapter if id(p) in faster], config.learning_rate * config.lora_plus_ratio),
        (list(head), config.decoder_learning_rate),
    )
    for params, rate in rated:
        for decayed in (True, False):
            chosen = [p for p in params if (p.ndim >= 2) == decayed]
            if chosen:
                decay = config.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    kwargs: dict[str, Any] = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    if all(p.is_cuda for group in groups for p in group["params"]):
        kwargs["fused"] = True  # one kernel a group instead of several a tensor
    return OPTIMIZERS[config.optimizer](groups, **kwargs)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's own tensors (moments, counts) under "<parameter's number>/<name>"."""
    return {
        f"{number}/{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`optimizer_tensors`; rates and decay stay the optimiser's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class WeightAverage:
    """Exponential moving average of the trainable tensors, with a warm start.

    The decay at update t is ``min(decay, (1 + t) / (10 + t))``, so short runs average little.
    ``decay = 0`` keeps the raw weights.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.average = [p.detach().clone() for p in self.parameters]
        self._raw: list[Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights; call once an optimiser step."""
        self._follow_device()
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)

    def _follow_device(self) -> None:
        """Move to where the parameters went after this average was made (Lightning moves them late)."""
        for i, parameter in enumerate(self.parameters):
            if self.average[i].device != parameter.device:
                self.average[i] = self.average[i].to(parameter.device)

    def load(self, average: Iterable[Tensor], updates: int) -> None:
        """Go on from an average made earlier, in the order of the parameters."""
        self.average = [a.to(p.device) for a, p in zip(average, self.parameters, strict=True)]
        self.updates = updates

    @torch.no_grad()
    def swap_in(self) -> None:
        """Put the averaged weights into the model; undo with :meth:`swap_out`."""
        self._raw = [p.detach().clone() for p in self.parameters]
        for parameter, value in zip(self.parameters, self.average, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def swap_out(self) -> None:
        """Put the raw weights back."""
        if self._raw is None:
            return
        for parameter, value in zip(self.parameters, self._raw, strict=True):
            parameter.copy_(value)
        self._raw = None
