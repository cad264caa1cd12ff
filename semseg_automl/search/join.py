"""A process that helps with a search which another one runs: joins, trains trials, leaves."""

from __future__ import annotations

import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna

from semseg_automl.core.errors import ArtifactError
from semseg_automl.core.log import get_logger
from semseg_automl.models.checkpoints import resolve_weights
from semseg_automl.models.devices import Devices, pick_devices
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.limits import Limits
from semseg_automl.search.notice import (
    END,
    NOTICE,
    URGENT,
    Notice,
    crew_folder,
    heard_stop,
    read_job,
    read_notice,
)
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.pulse import Listener, Pulse, wait_for_beat
from semseg_automl.search.request import FitRequest
from semseg_automl.search.run_folder import RunFolder
from semseg_automl.search.session import Session
from semseg_automl.search.storage import open_storage
from semseg_automl.search.study import MAIN, hand_back, open_study, quiet_optuna
from semseg_automl.search.trials import run_trials
from semseg_automl.training.job import TrainJob

_LOG = get_logger("search")
_LISTEN_SECONDS = 0.3
OVER, INTERRUPTED, GONE = (
    "the search has ended",
    "interrupted: its trial was handed back",
    "the process that runs the search is gone",
)


@dataclass(frozen=True, kw_only=True)
class Helped:
    """What a helper did: its name, the trials it ran, and why it left."""

    worker: str
    trials: int
    reason: str


def help_search(
    model_folder: Path,
    name: str,
    *,
    position: int | None = None,
    devices: Devices = "auto",
    storage: str | None = None,
    stop: Interrupt | None = None,
    progress: Callable[[Mapping[str, Any]], None] = lambda _event: None,
) -> Helped:
    """Train trials of the search that runs in a model's folder until there is nothing to do any more.

    Parameters
    ----------
    model_folder : the model's folder, as the process that runs ``fit`` knows it or as it is mounted here.
    name : of this process, unlike any other's.
    position : of the job's devices, for a process that was started by the search; None: joined by hand,
        on the first of ``devices``.
    storage : Optuna URL that replaces the search's, where that is called otherwise here.
    stop : set by Ctrl-C or SIGTERM: the trial is handed back.

    Raises
    ------
    ArtifactError
        No search is running there, or another version of this package runs it.
    """
    files = RunFolder(model_folder)
    crew = crew_folder(files)
    if not (crew / NOTICE).is_file():
        raise ArtifactError(
            f"No search that can be joined is running in {model_folder}. Start one with fit(path=...); a fit "
            "that was cut short goes on with fit(resume=True)."
        )
    notice = read_notice(crew)
    stop = stop or Interrupt()
    budget = _clock(notice, crew, stop, joined=position is None)
    job = _own_job(read_job(crew), position, devices)
    session = Session(
        request=FitRequest(
            config=notice.plan.config, tune=notice.settings, seed=notice.seed, folder=model_folder
        ),
        job=job,
        budget=budget,
        stop=stop,
        files=files,
        outcome=Outcome(plan=notice.plan, limits=Limits.of(notice.settings)),
        on_best=lambda _outcome: None,
        progress=progress,
        worker=name,
    )
    facts = {"ident": notice.ident, "pid": os.getpid(), "joined": position is None}
    with quiet_optuna(), Pulse(crew / f"{name}.json", lambda: facts), _Ear(session, notice, crew) as ear:
        session = replace(session, leaving=ear.leaving)
        study = _study(notice, name, storage, files)
        try:
            count = run_trials(session, study, most=notice.most)
        finally:
            hand_back(study, name)
    reason = GONE if ear.main_is_gone else INTERRUPTED if ear.leaving() else OVER
    _LOG.info("%s: %d %s; %s.", name, count, "trial" if count == 1 else "trials", reason)
    return Helped(worker=name, trials=count, reason=reason)


def _clock(notice: Notice, crew: Path, stop: Interrupt, *, joined: bool) -> Budget:
    """The search's clock: this machine's own for a process of the same machine, else by what main says."""
    limit = notice.limit if math.isfinite(notice.limit) else None
    if not joined:
        return Budget(limit, time.time, started=notice.began)
    beat = wait_for_beat(crew / f"{MAIN}.json", stop)
    if beat is None or beat.get("ident") != notice.ident:
        raise ArtifactError(
            f"The process that ran the search in {crew.parents[1]} is gone. Go on with fit(resume=True)."
        )
    return Budget(limit, started=time.monotonic() - float(beat["elapsed"]))


def _own_job(job: TrainJob, position: int | None, devices: Devices) -> TrainJob:
    """The search's job on this process's device, with the weights as they are found here."""
    if position is not None:
        ids = job.device_ids[position % len(job.device_ids)]
        return replace(job, device_ids=(ids,))
    choice = pick_devices(devices)
    precision = "32-true" if choice.kind != job.accelerator else job.precision
    weights = job.weights
    if weights is not None and weights.path is not None and not weights.path.is_file():
        weights = resolve_weights(weights.name, sha256=weights.sha256)
    return replace(
        job, accelerator=choice.kind, device_ids=choice.ids[:1], precision=precision, weights=weights
    )


def _study(notice: Notice, name: str, url: str | None, files: RunFolder) -> optuna.Study:
    url = url or notice.storage
    storage = open_storage(url, None) if url is not None else open_storage(None, files.path)
    seed = notice.seed + zlib.crc32(name.encode()) % 2**16  # not the others' draws
    return open_study(notice.settings, seed, storage, notice.study, paused=len(notice.plan.rungs) > 1)


class _Ear:
    """Listens, in a thread, to what the main process says, and whether it lives."""

    def __init__(self, session: Session, notice: Notice, crew: Path) -> None:
        self.main_is_gone = False
        self._session, self._ident, self._crew = session, notice.ident, crew
        self._listener = Listener(crew / f"{MAIN}.json")
        self._told = False
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Ear:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quit.set()
        self._thread.join()

    def leaving(self) -> bool:
        """Whether this process stops by itself, or because main is gone: its trial is not told."""
        return self._session.stop() and not self._told

    def _run(self) -> None:
        while not self._quit.wait(_LISTEN_SECONDS):
            word = self._word()
            if word == END:
                self._session.end()
            elif word:
                self._told = True
                self._session.stop.urgent |= word == URGENT
                self._session.stop.requested = True
            elif not self._main_lives():
                self.main_is_gone = self._session.stop.requested = True
                return

    def _word(self) -> str:
        try:
            return heard_stop(self._crew)
        except OSError:  # it is just being written
            return ""

    def _main_lives(self) -> bool:
        alive = self._listener.alive()
        return alive and self._listener.facts.get("ident", self._ident) == self._ident
