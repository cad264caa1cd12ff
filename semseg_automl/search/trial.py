"""One trial that fails alone: out of memory, overflows and lost readers are mended, other causes recorded."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from semseg_automl.core.errors import ConfigError, DataError, SemsegError
from semseg_automl.core.log import get_logger
from semseg_automl.models.devices import give_back_memory, out_of_memory
from semseg_automl.training.fit import micro_batch
from semseg_automl.training.job import Hooks, TrainJob, TrainResult
from semseg_automl.training.launch import train_on_devices
from semseg_automl.training.readers import lost_reader

_LOG = get_logger("search")
_TRIES = 6  # out of memory: micro-batches of 4, 2, 1, then gradient checkpointing; float32; no readers
_FLOAT32 = "32-true"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of a trial: a result, or None and the reason. ``seconds`` is wall clock."""

    result: TrainResult | None
    reason: str
    seconds: float


def run_trial(job: TrainJob, hooks: Hooks) -> Attempt:
    """Train on every device of the job; on failure answer with the reason instead of raising.

    Wrong data (DataError) is raised: no other configuration could repair it. A loss that became
    NaN in bfloat16 or float16 goes on in float32, processes that read pictures and were killed are
    done without, both from the run's state on disk (``job.checkpoint``) where there is one. A
    ConfigError (searched values that don't go together) is this trial's failure alone.
    """
    started = time.perf_counter()
    kept, reason = None, ""
    for _try in range(_TRIES):
        try:
            result = train_on_devices(job, hooks)
        except DataError:
            raise
        except (RuntimeError, MemoryError, ConfigError, OSError) as error:
            if isinstance(error, OSError) and (isinstance(error, SemsegError) or not job.num_workers):
                raise
            changed, reason = _remedy(job, error)
        else:
            kept = result if kept is None or _is_better(result, kept) else kept
            if result.state != "nan" or job.precision == _FLOAT32:
                break
            changed = replace(job, precision=_FLOAT32)
            reason = f"The loss or the output left the range of {job.precision}. Going on in float32."
        if changed is None or hooks.stop_requested():
            break
        _LOG.warning("%s", reason)
        give_back_memory(job.accelerator)
        job = changed
    seconds = time.perf_counter() - started
    return Attempt(result=kept, reason=reason or (kept.state if kept else ""), seconds=seconds)


def _is_better(new: TrainResult, old: TrainResult) -> bool:
    return math.isnan(old.score) or new.score >= old.score


def _remedy(job: TrainJob, error: BaseException) -> tuple[TrainJob | None, str]:
    """A changed job that may work, and what happened in words."""
    text = f"{type(error).__name__}: {error}"
    lost = lost_reader(error) or (str(error) if isinstance(error, OSError) else None)
    if lost and job.num_workers:
        return replace(job, num_workers=0), (
            f"A process that reads pictures was lost ({lost}): is memory or shared memory (/dev/shm) short? "
            "Going on from the last validation with num_workers=0."
        )
    if out_of_memory(error):
        micro = micro_batch(job, len(job.device_ids))
        if micro > 1:
            return replace(
                job, micro_batch_size=micro // 2
            ), f"Out of memory: micro-batch {micro} -> {micro // 2}."
        if not job.config.model.gradient_checkpointing:
            config = job.config.replace(gradient_checkpointing=True)
            return replace(job, config=config), "Out of memory at a micro-batch of 1: gradient checkpointing."
        return None, f"Out of memory at a micro-batch of 1 with gradient checkpointing ({text})"
    if isinstance(error.__cause__, FloatingPointError) and job.precision != _FLOAT32:
        return replace(job, precision=_FLOAT32), f"{error} Trying again in float32."
    return None, text
