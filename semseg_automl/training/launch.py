"""Training on several devices: one process each, started from this package and watched until they end.

The processes run ``python -m semseg_automl.training.worker``. The user's script or notebook is not
run again, nothing is forked and nothing is pickled: the job and its result are files. Tested with
processes on a CPU (gloo); the same code for several GPUs (NCCL) has not been run on them yet.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from semseg_automl.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    SemsegError,
    TrainingError,
    WeightsError,
)
from semseg_automl.core.hardware import usable_cores
from semseg_automl.core.log import LOGGER_NAME, get_logger
from semseg_automl.core.processes import end_all, last_lines, package_environment, start_module
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.training.fit import train
from semseg_automl.training.job import Hooks, TrainJob, TrainResult
from semseg_automl.training.job_files import (
    ERROR,
    EVENTS,
    INTERRUPTED,
    PRUNED,
    RESULT,
    STOP,
    URGENT,
    Order,
    read_result,
    replace_text,
    write_order,
)

_LOG = get_logger("training")
WORTH_STARTING = 30.0
"""Seconds that must be left for several processes: each loads torch and the weights anew."""
_POLL_SECONDS = 0.1
_OVERDUE_SECONDS = 300.0  # past the deadline: no step and picture takes that long, so they hang
_URGENT_SECONDS = 5.0
"""How long processes may take to hand over after SIGTERM; what they have validated lies in the checkpoint."""
_RAISED_AS_THEY_ARE: dict[str, type[Exception]] = {
    e.__name__: e for e in (ArtifactError, ConfigError, DataError, WeightsError, MemoryError)
}


def train_on_devices(job: TrainJob, hooks: Hooks | None = None) -> TrainResult:
    """Train one model on every device of ``job.device_ids``; with one, in this process.

    On a CPU each id is a process. ``batch_size`` stays that of the whole: a process sees its part
    of each batch. ``hooks.report`` is asked here, so that pruning takes effect at the validation
    after the one that it judged.

    Raises
    ------
    TrainingError
        As ``fit.train``; or a process died, with the last lines that it wrote. The others are ended.
    DataError, ConfigError, WeightsError, ArtifactError, MemoryError
        As raised in a process.
    """
    hooks = hooks or Hooks()
    world = len(job.device_ids)
    if world > 1 and hooks.remaining() < WORTH_STARTING:
        _LOG.info("%.0f s are too short to start %d processes: one device.", hooks.remaining(), world)
        world = 1
    if world == 1:
        return train(replace(job, device_ids=job.device_ids[:1]), hooks)
    job = replace(shared_evenly(job), weights=job.weights or resolve_weights(job.config.model.backbone))
    try:
        folder = Path(tempfile.mkdtemp(prefix="semseg-training-"))
    except OSError as error:
        raise TrainingError(f"No folder for the processes' files: {error}. Set TMPDIR to one.") from error
    try:
        return _train_in_processes(job, hooks, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shared_evenly(job: TrainJob) -> TrainJob:
    """The job with its batch size rounded up to a multiple of its devices."""
    batch, world = job.config.optim.batch_size, len(job.device_ids)
    rounded = math.ceil(batch / world) * world
    if rounded == batch:
        return job
    _LOG.info("batch_size %d -> %d, to be shared evenly by %d devices.", batch, rounded, world)
    return replace(job, config=job.config.replace(batch_size=rounded))


def _train_in_processes(job: TrainJob, hooks: Hooks, folder: Path) -> TrainResult:
    deadline = time.time() + hooks.remaining()
    level = logging.getLogger(LOGGER_NAME).getEffectiveLevel()
    try:
        write_order(Order(job=job, deadline=deadline, log_level=level), folder)
    except OSError as error:
        raise TrainingError(f"The job can't be written to {folder}: {error}. Set TMPDIR.") from error
    processes: list[subprocess.Popen] = []
    try:
        port = _free_port()
        for rank in range(len(job.device_ids)):
            processes.append(_start(folder, rank, _environment(rank, len(job.device_ids), port)))
        _watch(processes, folder, hooks, deadline)
    except OSError as error:
        if isinstance(error, SemsegError):
            raise
        raise TrainingError(f"The files of the processes in {folder} can't be used: {error}.") from error
    finally:
        end_all(processes)  # with the result written, or lost, nothing is left to do well
    return read_result(folder)


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    """This process's variables, with what one of ``world`` processes on this machine needs."""
    kept = package_environment(max(1, min(torch.get_num_threads(), usable_cores()) // world))
    kept.pop("PL_GLOBAL_SEED", None)
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback and "GLOO_SOCKET_IFNAME" not in kept:
        kept["GLOO_SOCKET_IFNAME"] = loopback  # else gloo needs a host name that resolves
    return kept | {
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(folder: Path, rank: int, environment: dict[str, str]) -> subprocess.Popen:
    module = "semseg_automl.training.worker"
    return start_module(module, [str(folder)], environment, _log_file(folder, rank))


def _watch(processes: list[subprocess.Popen], folder: Path, hooks: Hooks, deadline: float) -> None:
    """Pass events and stop requests on until rank 0 has its result; raise if a process fails."""
    events = new_events(folder / EVENTS)
    asked, end = "", deadline + _OVERDUE_SECONDS
    while True:
        codes = [process.poll() for process in processes]
        done = (folder / RESULT).exists()  # in this order: who ended well has written it
        for event in next(events):
            if _pass_on(event, hooks) and not asked:
                replace_text(folder / STOP, PRUNED)
        if done:
            return
        if any(codes) or codes[0] == 0:
            raise _failure(codes, folder)
        if hooks.stop_requested() and (word := URGENT if hooks.urgent() else INTERRUPTED) != asked:
            replace_text(folder / STOP, word)
            asked, end = word, time.time() + _URGENT_SECONDS if word == URGENT else end
        if time.time() > end:
            what = "were told to end at once and did not" if asked == URGENT else "hang"
            raise TrainingError(f"The training processes {what}.\n{last_lines(_log_file(folder, 0))}")
        time.sleep(_POLL_SECONDS)


def new_events(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Each time the events that a process has written since the last time."""
    while not path.exists():
        yield []
    rest = ""
    with path.open(encoding="utf-8") as stream:
        while True:
            *lines, rest = (rest + stream.read()).split("\n")
            yield [json.loads(line) for line in lines]


def _pass_on(event: dict[str, Any], hooks: Hooks) -> bool:
    """Hand one event to the hooks or the log; True if the run is to be pruned."""
    if event["kind"] == "progress":
        hooks.progress(event["event"])
    elif event["kind"] == "log":
        logging.getLogger(event["name"]).log(event["level"], "%s", event["message"])
    elif event["kind"] == "report":
        return hooks.report(event["step"], event["score"])
    return False


def _failure(codes: list[int | None], folder: Path) -> Exception:
    """The first cause: a process that died without a word, else the earliest error.

    The others' errors are mostly about a lost connection.
    """
    errors: dict[int, dict[str, Any]] = {}
    for rank in range(len(codes)):
        path = folder / ERROR.format(rank)
        if path.exists():
            errors[rank] = json.loads(path.read_text(encoding="utf-8"))
    silent = [rank for rank, code in enumerate(codes) if code and rank not in errors]
    if silent or not errors:
        rank = silent[0] if silent else 0
        how = f"died (exit status {codes[rank]})"
        return TrainingError(
            f"Training process {rank} of {len(codes)} {how}.\n{last_lines(_log_file(folder, rank))}"
        )
    rank = min(errors, key=lambda r: errors[r]["time"])
    kind, message = errors[rank]["type"], errors[rank]["message"]
    if kind in _RAISED_AS_THEY_ARE:
        return _RAISED_AS_THEY_ARE[kind](message)
    if kind == "TrainingError":
        error = TrainingError(message)
    else:
        lines = last_lines(_log_file(folder, rank))
        error = TrainingError(f"Training process {rank} of {len(codes)}: {kind}: {message}\n{lines}")
    if errors[rank]["cause"] == "FloatingPointError":
        error.__cause__ = FloatingPointError(message)
    return error


def _log_file(folder: Path, rank: int) -> Path:
    return folder / f"worker-{rank}.log"
