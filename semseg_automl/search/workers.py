"""How many processes train the trials of a search: one a GPU; on a CPU what a measurement on it says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from semseg_automl.core.hardware import usable_cores
from semseg_automl.core.log import get_logger
from semseg_automl.models.devices import DeviceChoice, free_memory, peak_resident
from semseg_automl.search.crew import WORTH_STARTING
from semseg_automl.search.facts import probe_speed
from semseg_automl.search.planner import Fingerprint, Probe, make_plan
from semseg_automl.search.request import FitRequest
from semseg_automl.training.job import TrainJob

_LOG = get_logger("search")
LEAST_CORES = 4
"""Below, one process with all cores: a second one costs its start and its memory, and that it gains anything
has not been measured (benchmarks/search/workers.py does)."""
CORES_EACH = 4
LEAST_SECONDS = 300.0
LEAST_GAIN = 1.3
"""Times as many steps a second as one process that more of them must promise, each measured alone: together
they share caches and memory, which costs some of it (how much is assumed, not measured yet)."""
_MEMORY_SHARE = 0.6


def measure(request: FitRequest, job: TrainJob, print_: Fingerprint, remaining: float) -> tuple[int, Probe]:
    """Number of processes for a search, and a probe at the speed that each of them will have."""
    fixed = fixed_workers(request, job, remaining)
    with sharing(fixed or 1, job.accelerator):
        probe = probe_speed(job, print_, remaining)
    if fixed is not None:
        return fixed, probe
    number = max(2, usable_cores() // CORES_EACH)
    if usable_cores() < LEAST_CORES or remaining < LEAST_SECONDS:
        return 1, probe
    if make_plan(request, print_, probe, remaining).trials == 1 or not memory_carries(number):
        return 1, probe
    with sharing(number, job.accelerator):
        slower = probe_speed(job, print_, remaining)
    gain = number * probe.train_seconds_per_mpx / slower.train_seconds_per_mpx
    _LOG.info("%d processes that share the cores would do %.2f times the steps of one.", number, gain)
    return (number, slower) if gain >= LEAST_GAIN else (1, probe)


def fixed_workers(request: FitRequest, job: TrainJob, remaining: float) -> int | None:
    """The number where nothing is to be measured: as asked for, one a GPU; None on a CPU.

    One where there is no search or no time to start more, or where sampler, pruner or augmentation is
    an object of the user's, which other processes can't have.
    """
    tune = request.tune
    own_objects = request.own_augment is not None or (
        tune is not None and (tune.sampler is not None or tune.pruner is not None)
    )
    searching = (1.0 - request.finish_share) * remaining
    if tune is None or own_objects or request.folder is None or searching < WORTH_STARTING:
        return 1
    if tune.num_workers is not None:
        return tune.num_workers
    return None if job.accelerator == "cpu" else len(job.device_ids)


@contextlib.contextmanager
def sharing(number: int, accelerator: str) -> Iterator[None]:
    """Give this process the share of the cores that each of ``number`` has, while the block runs."""
    before = torch.get_num_threads()
    if number > 1 and accelerator == "cpu":
        torch.set_num_threads(max(1, min(before, usable_cores()) // number))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_carries(number: int) -> bool:
    """Whether the free memory holds ``number`` processes of this one's peak; yes where nothing tells."""
    peak, free = peak_resident(), free_memory(DeviceChoice("cpu"))
    return peak is None or free is None or (number - 1) * peak <= _MEMORY_SHARE * free
