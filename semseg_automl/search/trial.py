"""One trial that fails alone: out of memory halves the micro-batch once, other causes are recorded."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.log import get_logger
from semseg_automl.training.fit import micro_batch
from semseg_automl.training.job import Hooks, TrainJob, TrainResult
from semseg_automl.training.launch import train_on_devices

_LOG = get_logger("search")
_TRIES = 5  # out of memory: micro-batches of 4, 2, 1, then gradient checkpointing; float32


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of a trial: a result, or None and the reason. ``seconds`` is wall clock."""

    result: TrainResult | None
    reason: str
    seconds: float


def run_trial(job: TrainJob, hooks: Hooks) -> Attempt:
    """Train on every device of the job; on failure answer with the reason instead of raising.

    Wrong data (DataError) is raised: no other configuration could repair it. A loss that became
    NaN in bfloat16 is tried once more in float32. A ConfigError (searched values that don't go
    together) is this trial's failure alone.
    """
    started = time.perf_counter()
    reason = ""
    for _try in range(_TRIES):
        try:
            result = train_on_devices(job, hooks)
            return Attempt(
                result=result, reason=reason or result.state, seconds=time.perf_counter() - started
            )
        except DataError:
            raise
        except (RuntimeError, MemoryError, ConfigError) as error:
            changed, reason = _remedy(job, error)
            if changed is None or hooks.stop_requested():
                break
            _LOG.warning("%s", reason)
            job = changed
    return Attempt(result=None, reason=reason, seconds=time.perf_counter() - started)


def _remedy(job: TrainJob, error: BaseException) -> tuple[TrainJob | None, str]:
    """A changed job that may work, and what happened in words."""
    text = f"{type(error).__name__}: {error}"
    if (
        isinstance(error, MemoryError)
        or "out of memory" in str(error).lower()
        or "can't allocate" in str(error)
    ):
        micro = micro_batch(job, len(job.device_ids))
        if micro > 1:
            return replace(
                job, micro_batch_size=micro // 2
            ), f"Out of memory: micro-batch {micro} -> {micro // 2}."
        if not job.config.model.gradient_checkpointing:
            config = job.config.replace(gradient_checkpointing=True)
            return replace(job, config=config), "Out of memory at a micro-batch of 1: gradient checkpointing."
        return None, f"Out of memory at a micro-batch of 1 with gradient checkpointing ({text})"
    if isinstance(error.__cause__, FloatingPointError) and job.precision != "32-true":
        return replace(job, precision="32-true"), f"{error} Trying again in float32."
    return None, text
