"""What a fit keeps beside its model while it runs, so that a fit that was killed loses nothing.

::

    model/search/
      plan.json                    the configuration that was planned and the speed that was measured
      clock.json                   seconds used, over all runs, a few seconds old at most
      NAME.safetensors             the state of a model that is not finished (training.checkpoint)
      journal.log                  the trials of a search, as an Optuna journal
      turn.lock                    held by the process that decides what is trained next
      crew/                        what helpers of a search need and say (search.notice)
      windows/                     PNG files cut out of large pictures (estimator._windows)
      .features-*/                 kept features of the trainings (training.feature_store)

A fit that ends well removes it; the journal stays, as ``model/study.log``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from semseg_automl.artifacts.layout import replace_file
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError
from semseg_automl.core.log import get_logger
from semseg_automl.search.planner import Probe

_LOG = get_logger("search")
FOLDER, PLAN, CLOCK, JOURNAL, STUDY = "search", "plan.json", "clock.json", "journal.log", "study.log"
TURN = "turn.lock"
_TICK = 2.0
_PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the first run decided and a later one sticks to: scores must stay comparable.

    ``problem``: metric and classes in words; ``workers``: processes at whose number the speed was measured.
    """

    config: RunConfig
    probe: Probe
    rungs: tuple[float, ...] = (math.inf,)
    problem: str = ""
    workers: int = 1


class RunFolder:
    """The folder ``search`` in a model's folder; without a model's folder nothing is kept."""

    def __init__(self, model_folder: Path | None) -> None:
        self.path = None if model_folder is None else model_folder / FOLDER
        self._ticked = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a fit was planned here that did not end well."""
        return self.path is not None and (self.path / PLAN).is_file()

    def checkpoint(self, name: str) -> str | None:
        """The file for the state of a model."""
        return None if self.path is None else str(self.path / f"{name}.safetensors")

    def write_start(self, start: Start) -> None:
        """Keep what was planned; a disk that is full is told, and the fit goes on."""
        if self.path is None:
            return
        values = dataclasses.asdict(start) | {"config": start.config.to_json()}
        try:
            self.path.mkdir(exist_ok=True)
            replace_file(self.path / PLAN, json.dumps(values).encode())
        except OSError as error:
            _LOG.warning("The plan can't be kept (%s): killed, the fit would start anew.", error)

    def read_start(self) -> Start | None:
        """What an earlier run had planned, or None.

        Raises
        ------
        ArtifactError
            The file is damaged.
        """
        stored = self._read(PLAN)
        if stored is None:
            return None
        return Start(
            config=RunConfig.from_json(stored["config"]),
            probe=Probe(**stored["probe"]),
            rungs=tuple(stored["rungs"]),
            problem=stored["problem"],
            workers=stored.get("workers", 1),
        )

    def tick(self, seconds: float) -> None:
        """Keep the seconds used so far, now and then; a disk that is full ends no training."""
        if self.path is None or self._ticked <= seconds < self._ticked + _TICK:
            return
        self._ticked = seconds
        with contextlib.suppress(OSError):  # the clock of a resumed fit is then a little behind
            replace_file(self.path / CLOCK, json.dumps({"seconds": seconds}).encode())

    def seconds(self) -> float:
        """Seconds used by the runs that did not end well, 0 where there are none."""
        return float((self._read(CLOCK) or {"seconds": 0.0})["seconds"])

    @property
    def holds_study(self) -> bool:
        """Whether trials of a search are on record here."""
        return self.path is not None and (self.path / JOURNAL).is_file()

    def holds_state(self) -> bool:
        """Whether there is a model to go on with."""
        return self.path is not None and any(self.path.glob("*.safetensors"))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the right to decide what is trained next; of the processes of a search one has it at a time.

        Where the lock can't be had within ten seconds, or not at all, nothing is held: at worst two processes
        go on with the same model.
        """
        lock = None if self.path is None else FileLock(self.path / TURN)
        if lock is not None:
            try:
                lock.acquire(timeout=_PATIENCE)
            except (OSError, NotImplementedError) as error:  # too long held; a file system without locks
                _LOG.debug("The search's turn can't be locked: %s", error)
                lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def close(self) -> None:
        """Remove what only an unfinished fit needs; keep the journal."""
        if self.path is None:
            return
        if self.holds_study:
            try:
                os.replace(self.path / JOURNAL, self.path.parent / STUDY)
            except OSError as error:
                _LOG.warning("The search's journal can't be kept: %s.", error)
        shutil.rmtree(self.path, ignore_errors=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        if self.path is None or not (self.path / name).is_file():
            return None
        try:
            values = json.loads((self.path / name).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.path / name} can't be read: {error}. Delete {self.path} to start anew."
            ) from error
        return values
