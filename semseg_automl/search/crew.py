"""The helpers of a search, seen from the process that runs ``fit``: started, watched, told to stop."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.hardware import usable_cores
from semseg_automl.core.log import LOGGER_NAME, get_logger
from semseg_automl.core.processes import end_all, last_lines, package_environment, start_module
from semseg_automl.data.sample_files import in_files
from semseg_automl.search.notice import (
    END,
    INTERRUPTED,
    NOTICE,
    URGENT,
    Notice,
    began_at,
    crew_folder,
    new_ident,
    say_stop,
    write_notice,
)
from semseg_automl.search.pulse import Listener, Pulse, read_beat
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.session import Session
from semseg_automl.search.study import MAIN, WORKER, call_back, others_at_work, requeue_stale
from semseg_automl.search.trials import adopt, planned_chains
from semseg_automl.training.job_files import JOB
from semseg_automl.training.launch import new_events

_LOG = get_logger("search")
WORTH_STARTING = 15.0
"""Seconds of trials that must be left for helpers: each loads torch and the weights anew."""
_LOOK_SECONDS = 0.5
_GRACE, _HASTE = 10.0, 3.0
"""Seconds that helpers get beyond the trials' time, and after SIGTERM."""
_OWN_FILES = {NOTICE, JOB, f"{MAIN}.json"}


@dataclass(kw_only=True)
class _Helper:
    """A helper as main sees it; ``process`` is None for one that joined from elsewhere."""

    name: str
    events: Iterator[list[dict[str, Any]]]
    listener: Listener
    position: int = 0
    process: subprocess.Popen | None = None

    def is_gone(self) -> bool:
        """Whether its process ended, or has been silent for too long."""
        if self.process is not None:
            return self.process.poll() is not None
        return not self.listener.path.exists() or not self.listener.alive()


@dataclass(kw_only=True)
class Crew:
    """Main's view of its helpers. :func:`crew_of` makes one and ends it."""

    session: Session
    study: optuna.Study
    folder: Path
    most: int
    ident: str
    helpers: dict[str, _Helper] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    _looked: float = 0.0
    _replaced: set[str] = field(default_factory=set)
    _left: set[str] = field(default_factory=set)

    def start(self, count: int) -> None:
        """Start ``count`` helpers; the cores are shared by all, this process included."""
        for number in range(1, count + 1):
            self._start(f"worker_{number}", number)

    def _start(self, name: str, position: int) -> None:
        arguments = [str(self.session.request.folder), name, str(position)]
        environment = package_environment(torch.get_num_threads())
        process = start_module(
            "semseg_automl.search.worker", arguments, environment, self.folder / f"{name}.log"
        )
        self._meet(name, position=position, process=process)

    def _meet(self, name: str, **parts: Any) -> None:
        events, listener = new_events(self.folder / f"{name}.jsonl"), Listener(self.folder / f"{name}.json")
        self.helpers[name] = _Helper(name=name, events=events, listener=listener, **parts)

    def look(self) -> None:
        """Pass on what helpers say, and have the trials of lost ones repeated; at most twice a second."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for path in self.folder.glob("*.json"):
            if path.name not in _OWN_FILES and path.stem not in self.helpers and path.stem not in self._left:
                facts = read_beat(path)
                if facts is not None and facts.get("joined"):
                    _LOG.info("%s has joined the search.", path.stem)
                    self._meet(path.stem)
        for helper in self.helpers.values():
            self._pass_on(helper)
        gone = [helper for helper in self.helpers.values() if helper.is_gone()]
        if gone:
            self._lose(gone)

    def _pass_on(self, helper: _Helper) -> None:
        for event in next(helper.events):
            if event["kind"] == "progress":
                self.session.progress(event["event"])
            elif event["kind"] == "log":
                logging.getLogger(event["name"]).log(event["level"], "%s: %s", helper.name, event["message"])

    def _lose(self, gone: list[_Helper]) -> None:
        """Requeue what they left undone; start each that was ours once more, if there is the time."""
        names = {helper.name for helper in gone}
        for helper in gone:
            del self.helpers[helper.name]
            self._left.add(helper.name)
        lost = self.requeue(names)
        for helper in gone:
            code = None if helper.process is None else helper.process.returncode
            if code == 0 or (helper.process is None and not lost):
                continue
            lines = last_lines(self.folder / f"{helper.name}.log")
            _LOG.warning("%s is gone (exit status %s). The search goes on. %s", helper.name, code, lines)
            fits = self.session.left() - self.session.plan.finish > WORTH_STARTING
            if helper.process is not None and helper.name not in self._replaced and fits:
                again = f"{helper.name}_again"
                self._replaced.add(again)
                self._start(again, helper.position)

    def requeue(self, names: set[str]) -> list[int]:
        """Fail the running trials of helpers that are gone, and queue each once more."""
        with self.session.files.turn():  # in which every running trial has its worker's name
            lost = requeue_stale(
                self.study, lambda t: t.user_attrs.get(WORKER) in {None, *names}, self.session.safe_seconds
            )
        for number in lost:
            _LOG.info("Trial %d was cut short: it is queued once more.", number)
        return lost

    def see(self) -> None:
        """Take over the models that helpers have finished since the last time."""
        self.look()
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        ended = self.study.get_trials(deepcopy=False, states=states)
        new = [t for t in ended if t.number not in self.seen and t.user_attrs.get(WORKER) != MAIN]
        self.seen.update(t.number for t in ended)
        if not new:
            return
        adopt(self.session, self.study, {t.number for t in new})
        for trial in new:
            if call_back(self.session.request.callbacks, self.study, trial):
                self.session.end()

    def stop(self, patience: float) -> None:
        """Have the helpers stop, wait for them at most so long, and end those that still run."""
        flag = self.session.stop
        word = URGENT if flag.urgent else INTERRUPTED if flag.requested else END
        with contextlib.suppress(OSError):
            say_stop(self.folder, word)
        until = time.monotonic() + patience
        soon = min(until, time.monotonic() + _GRACE)
        try:
            while time.monotonic() < until and not all(h.is_gone() for h in self.helpers.values()):
                if time.monotonic() > soon and not others_at_work(self.study, MAIN):
                    break  # they have nothing to bring, and may hang
                for helper in self.helpers.values():
                    self._pass_on(helper)
                time.sleep(0.2)
        finally:
            end_all([h.process for h in self.helpers.values() if h.process is not None])
        for helper in self.helpers.values():
            self._pass_on(helper)
        self._left.update(self.helpers)
        self.helpers.clear()

    def close(self) -> None:
        """Close what helpers left open, take over what they finished."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(WORKER) != MAIN:
                with contextlib.suppress(RuntimeError, ValueError):  # told in this very moment
                    self.study.tell(trial.number, state=TrialState.FAIL)
        self.see()

    def patience(self) -> float:
        """Seconds until the last helper should have ended."""
        flag, plan = self.session.stop, self.session.plan
        if flag.urgent:
            return _HASTE
        if flag.requested:
            return _GRACE
        return max(0.0, self.session.left() - plan.finish) + min(_GRACE, max(1.0, 0.3 * plan.finish))


@contextlib.contextmanager
def crew_of(
    session: Session, study: optuna.Study, storage: str | None
) -> Iterator[tuple[Session, Crew | None]]:
    """Let helpers take part in a search while the block runs; the session then looks after them.

    None instead of a crew where none can be: no folder, pictures in memory that nobody was started for,
    a disk that can't be written.
    """
    crew = _opened(session, study, storage)
    if crew is None:
        yield session, None
        return
    threads = torch.get_num_threads()
    session = crew.session = replace(session, look=crew.look)
    beat = _facts(crew)
    with Pulse(crew.folder / f"{MAIN}.json", beat):
        try:
            _start_helpers(crew)
            yield session, crew
        except BaseException:
            crew.stop(0.0)
            raise
        else:
            crew.stop(crew.patience())
            crew.close()
        finally:
            torch.set_num_threads(threads)
            shutil.rmtree(crew.folder, ignore_errors=True)


def _opened(session: Session, study: optuna.Study, storage: str | None) -> Crew | None:
    """Write the notice of a search; None where no helper could take part."""
    request, files = session.request, session.files
    wanted = session.plan.workers > 1
    on_disk = files.path is not None and (storage is not None or files.holds_study)
    if wanted and not on_disk:
        _LOG.info("The search is not kept on disk: one process.")
    if (
        session.job.own_augment is not None
        or not on_disk
        or (not wanted and not (in_files(session.job.train) and in_files(session.job.val)))
    ):
        return None
    settings, folder = request.tune or TuneSettings(), crew_folder(files)
    notice = Notice(
        ident=new_ident(),
        plan=session.plan,
        settings=settings,
        most=planned_chains(session, study),
        study=study.study_name,
        storage=storage,
        seed=request.seed + len(study.trials),
        began=began_at(session.budget.elapsed()),
        limit=session.budget.limit,
        log_level=logging.getLogger(LOGGER_NAME).getEffectiveLevel(),
    )
    try:
        write_notice(notice, session.job, folder)
    except (ConfigError, DataError, OSError) as error:
        if wanted:
            _LOG.warning("No other processes can help with the search: %s", error)
        return None
    seen = {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
    return Crew(session=session, study=study, folder=folder, most=notice.most, ident=notice.ident, seen=seen)


def _start_helpers(crew: Crew) -> None:
    """Start as many as are planned, if there is the time for it."""
    session, number = crew.session, crew.session.plan.workers
    left = session.left() - session.plan.finish
    if number < 2:
        return
    if left < WORTH_STARTING:
        _LOG.info("%.0f s are too short to start %d processes: one.", max(0.0, left), number)
        return
    if session.job.accelerator == "cpu":
        torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cores()) // number))
    crew.start(number - 1)


def _facts(crew: Crew) -> Any:
    budget = crew.session.budget

    def facts() -> dict[str, Any]:
        left = budget.remaining()
        return {
            "ident": crew.ident,
            "pid": os.getpid(),
            "host": platform.node(),
            "elapsed": budget.elapsed(),
            "left": left if math.isfinite(left) else None,
        }

    return facts
