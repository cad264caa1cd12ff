"""What happens between optimiser steps: validation, deadline, best weights, progress."""

from __future__ import annotations

import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from semseg_automl.core.log import get_logger
from semseg_automl.data.dataset import SegmentationDataset
from semseg_automl.training.agreement import GO_ON, NAN, agree
from semseg_automl.training.checkpoint import Checkpoint
from semseg_automl.training.job import Hooks, ModelState
from semseg_automl.training.module import SegmentationModule
from semseg_automl.training.readers import lost_reader
from semseg_automl.training.select import is_higher, replaces
from semseg_automl.training.validate import Validation, validate

_LOG = get_logger("training")
_VALIDATION_SHARE = 0.10  # of a run's wall clock
_MAX_VALIDATIONS = 12
_SLACK = 1.2  # of a validation's expected time: one that is cut short scores some pictures only
_WARM_UP_STEPS = 5
_FEW_STEPS = 4  # between two validations, at least
_PREDICT_COST = 0.35  # of a picture, as a share of its training step


class Pacer:
    """The run's fraction done, from steps and from the clock, whichever is further.

    ``max_steps`` may be None only where ``remaining`` is finite. Clocks differ between processes that
    train together, so there ``agreed`` holds rank 0's fraction after the latest step, and the
    learning rate follows that. A run that goes on has ``spent`` seconds behind it.
    """

    def __init__(self, hooks: Hooks, max_steps: int | None, spent: float = 0.0) -> None:
        self.hooks = hooks
        self.max_steps = max_steps
        self.started = time.perf_counter() - spent
        self.total = hooks.remaining() + spent
        self.reserve = 0.0  # seconds kept for the last validation
        self.agreed: float | None = None

    def seconds(self) -> float:
        """Wall clock since the run's start."""
        return time.perf_counter() - self.started

    def fraction(self, step: int) -> float:
        """0 at the start, 1 where the run must end; ``step`` counts optimiser steps done."""
        return self.now(step) if self.agreed is None else self.agreed

    def now(self, step: int) -> float:
        """As :meth:`fraction`, by this process's own clock."""
        by_steps = step / self.max_steps if self.max_steps else 0.0
        usable = self.total - self.reserve
        by_clock = self.seconds() / usable if usable > 0 else 1.0
        return min(1.0, max(by_steps, by_clock if math.isfinite(self.total) else 0.0))


class Coach(lightning.Callback):
    """Validates on a schedule, keeps the best averaged weights, stops in time.

    Validations are spread over the run so that they take about a tenth of it; the last one
    always happens after the last step. Only the weight average is scored and kept; which one, the
    rule in ``training.select`` decides.

    ``keep(coach, module, step)`` is called after each validation, when the raw weights are back in place.

    Of ``world`` processes rank 0 validates, looks at the clock and decides; the others follow its
    verdict, which all get after the same step.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        pacer: Pacer,
        hooks: Hooks,
        *,
        eval_metric: str,
        precision: str,
        mirror: bool = False,
        rank: int = 0,
        world: int = 1,
        keep: Callable[[Coach, SegmentationModule, int], None] | None = None,
    ) -> None:
        self.mirror = mirror
        self.keep = keep
        self.dataset = dataset
        self.pacer = pacer
        self.hooks = hooks
        self.eval_metric = eval_metric
        self.precision = precision
        self.rank = rank
        self.world = world
        self.best: Validation | None = None
        self.best_state: ModelState | None = None
        self.peak: Validation | None = None  # the highest score, which may be of other weights
        self.history: list[tuple[int, float, float]] = []
        self.state = "finished"
        self.step_seconds: list[float] = []
        self._full_size: list[float] = []  # what each step would have taken on pictures at full size
        self.wait_seconds = 0.0  # between the end of a step and the next batch
        self.val_seconds = 0.0
        self.val_cost = 0.0  # of the latest pass; if it was cut short, of a whole one at its pace
        self.expected_val = 0.0  # before the first pass; 0: not known
        self._next = math.nan
        self._last_step = -1
        self._first_step = 0
        self._train_seconds_before = 0.0
        self._noise: Mapping[str, Tensor] = {}
        self.micro_batch = 1
        self.batch_size = 1
        self.accumulate = 1
        self.on_sigterm = signal.getsignal(signal.SIGTERM)
        self.fault = "another process met a loss that is not finite"
        self._tick = time.perf_counter()
        self._seen = 0

    def go_on_from(self, start: Checkpoint) -> None:
        """Take over what an earlier part of this run has seen; call before training starts."""
        self.best, self.best_state, self.peak = start.best, start.model, start.peak
        self.history = list(start.history)
        self.val_seconds, self.val_cost = start.val_seconds, start.val_cost
        self.pacer.reserve = _SLACK * start.val_cost
        self._train_seconds_before = start.train_seconds
        self._first_step = self._last_step = self._seen = start.step
        if self.rank == 0:
            self._noise = start.noise

    @property
    def train_seconds(self) -> float:
        """Seconds in training steps."""
        return self._train_seconds_before + sum(self.step_seconds)

    def steps(self, trainer: Any) -> int:
        """Optimiser steps of the run so far, those before it was interrupted included."""
        return self._first_step + int(trainer.global_step)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start the step clock; take SIGTERM back from Lightning, which would leave without a model."""
        if self.on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)
        self.accumulate = trainer.accumulate_grad_batches
        if self.world > 1:
            self.pacer.agreed = 0.0
        self._tick = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Time the wait for this batch; before the first one of a run that goes on its noise goes on, too."""
        self.wait_seconds += time.perf_counter() - self._tick
        if "cpu" in self._noise:
            torch.random.set_rng_state(self._noise["cpu"])
        if "cuda" in self._noise and module.device.type == "cuda":
            torch.cuda.set_rng_state(self._noise["cuda"], module.device)
        self._noise = {}

    @property
    def data_share(self) -> float:
        """Share of the steps' time that was spent waiting for batches; 0 before the first."""
        return self.wait_seconds / total if (total := sum(self.step_seconds)) else 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After each micro-batch: time it; after each optimiser step: decide what comes next."""
        now = time.perf_counter()
        self.step_seconds.append(now - self._tick)
        self._full_size.append(self.step_seconds[-1] / module.pixel_share)
        step = self.steps(trainer)
        if step != self._seen:
            self._seen = step
            self._after_step(trainer, module, step)
        self._tick = time.perf_counter()

    def _after_step(self, trainer: Any, module: SegmentationModule, step: int) -> None:
        verdict, fraction = GO_ON, 0.0
        if self.rank == 0:
            verdict = self._decide(module, step)
            fraction = self.pacer.now(step)
        verdict, fraction = agree(verdict, fraction, module.device, self.world)
        if self.world > 1:
            self.pacer.agreed = fraction
        if verdict == NAN:
            raise FloatingPointError(self.fault)
        if verdict != GO_ON:
            self.state = verdict
            trainer.should_stop = True
        if self.rank == 0:
            left = self.hooks.remaining()
            best = self.best.score if self.best else math.nan
            validated = self.history[-1][2] if self.history and self._last_step == step else math.nan
            self.hooks.progress(
                {"step": step, "fraction": fraction, "score": best, "loss": module.last_loss, "left": left}
                | {"validated": validated}
            )

    def _decide(self, module: SegmentationModule, step: int) -> str:
        """The verdict on going on after this step; validates first where that is due."""
        if not math.isfinite(module.last_loss):
            self.fault = f"the loss is {module.last_loss} at step {step}"
            return NAN
        if self.hooks.stop_requested():
            return "interrupted"
        if self._last_moment():
            return "time"
        if self.pacer.now(step) < self._due() or self._last_is_near():
            return GO_ON
        try:
            self.run_validation(module, step)
        except FloatingPointError as error:
            self.fault = str(error)
            return NAN
        return "pruned" if self.hooks.report(step, self.history[-1][2]) else GO_ON

    def _last_moment(self) -> bool:
        """Whether another step and the last validation would no longer fit."""
        left = self.hooks.remaining()
        if not math.isfinite(left):
            return False
        per_step = self.seconds_per_step * self.accumulate
        return left - _SLACK * self.validation_estimate() <= 1.5 * per_step

    def _last_is_near(self) -> bool:
        """Whether a validation now would leave no room for training before the last one."""
        left = self.hooks.remaining()
        if self.best is None or not math.isfinite(left):
            return False
        per_step = self.seconds_per_step * self.accumulate
        return left <= 2.2 * self.validation_estimate() + _FEW_STEPS * per_step

    def validation_estimate(self) -> float:
        """Seconds that a validation takes: the latest, another run's, or a guess from steps at full size."""
        if self.val_cost or self.expected_val:
            return self.val_cost or self.expected_val
        passes = len(self.dataset) * (1 + self.mirror)
        return _PREDICT_COST * _typical(self._full_size) * passes / max(1, self.micro_batch)

    @property
    def seconds_per_step(self) -> float:
        """Median seconds of a micro-batch after the warm-up steps (of all, in very short runs)."""
        return _typical(self.step_seconds)

    def _due(self) -> float:
        """Fraction of the run at which the next validation is due."""
        if math.isnan(self._next):
            done = self.pacer.now(self._first_step) if self._first_step else 0.0
            self._next = min(1.0, done + self._interval())
        return self._next

    def _interval(self) -> float:
        total = self.pacer.total
        if math.isfinite(total):
            if self.pacer.max_steps:  # which may be done long before the time is up
                total = min(total, self.seconds_per_step * self.accumulate * self.pacer.max_steps)
            affordable = _VALIDATION_SHARE * total / max(self.validation_estimate(), 1e-3)
        else:  # from counts alone: without a limit, the result must not depend on the machine's speed
            samples = (self.pacer.max_steps or 1) * self.batch_size
            affordable = _VALIDATION_SHARE * samples / (_PREDICT_COST * len(self.dataset) * (1 + self.mirror))
        return 1.0 / max(1.0, min(_MAX_VALIDATIONS, affordable))

    def run_validation(self, module: SegmentationModule, step: int) -> None:
        """Score the averaged weights; keep them if they are as good as the best so far (see ``select``)."""
        started, until = time.perf_counter(), self.hooks.until or self.hooks.remaining
        module.average.swap_in()
        try:
            result = validate(
                module.segmenter,
                self.dataset,
                eval_metric=self.eval_metric,
                precision=self.precision,
                mirror=self.mirror,
                out_of_time=lambda: until() <= 0 or self.hooks.urgent(),
                forward=module.forward_fast,
            )
            if replaces(result, self.peak):
                self.best = result
                self.best_state = snapshot(module)
            if is_higher(result, self.peak):
                self.peak = result
        finally:
            module.average.swap_out()
        self.val_seconds += time.perf_counter() - started
        self.val_cost = result.seconds * len(self.dataset) / max(1, result.pictures)
        self.pacer.reserve = _SLACK * self.val_cost
        self.history.append((step, self.pacer.seconds(), result.score))
        self._last_step = step
        self._next = min(1.0, self.pacer.now(step) + self._interval())
        if self.keep is not None:
            self.keep(self, module, step)
        _LOG.debug("step %d: %s %.4f (%.1f s)", step, self.eval_metric, result.score, result.seconds)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """The last validation, unless the last step was validated or pruned; the others wait for it."""
        step = self.steps(trainer)
        enough = self.best is not None and (self.state == "pruned" or self.hooks.urgent())
        try:
            if self.rank == 0 and self._last_step != step and not enough:
                self.run_validation(module, step)
        finally:
            agree(GO_ON, 1.0, module.device, self.world)

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """See to it that there is a model where the signal that stops us has ended our readers first."""
        self.stops_for(exception, trainer, module)

    def stops_for(self, error: BaseException, trainer: Any, module: SegmentationModule) -> bool:
        """Whether a signal to the whole group (Ctrl-C, a cluster's SIGTERM) ended the processes that read;
        if so, the run is one that was interrupted, and has a model.

        To be asked again: the readers' end may be seen before our own signal is.
        """
        if self.world > 1 or lost_reader(error) is None or not self.hooks.stop_requested():
            return False
        self.state = "interrupted"
        if self.best is None:
            self.run_validation(module, self.steps(trainer))
        return True


def _typical(seconds: Sequence[float]) -> float:
    """The median of the latest, without the first ones if there are others; NaN if there are none."""
    steps = seconds[_WARM_UP_STEPS:] or seconds
    return statistics.median(steps[-50:]) if steps else math.nan


def snapshot(module: SegmentationModule) -> ModelState:
    """Copy the trainable tensors to the CPU."""
    adapter, head = module.segmenter.trainable_state()
    return ModelState(adapter=_copy(adapter), head=_copy(head))


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
