"""What a search leaves in its folder for the processes that help with it.

::

    model/search/crew/
      notice.json                  the plan, how to count trials, when the clock started, which search this is
      job.json, ...                data and network (training.job_files)
      main.json                    a sign of life of the process that runs ``fit`` (search.pulse)
      stop                         "end": begin nothing new; "interrupted", "urgent": stop now
      NAME.json, NAME.log, NAME.jsonl   a worker's sign of life, its output, its events
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semseg_automl import __version__
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError
from semseg_automl.data.sample_files import anchored
from semseg_automl.search.planner import Plan
from semseg_automl.search.request import TuneSettings
from semseg_automl.search.run_folder import RunFolder
from semseg_automl.search.space import space_from_json, space_to_json
from semseg_automl.training.job import TrainJob
from semseg_automl.training.job_files import JOB, Order, read_order, replace_text, write_order

CREW, NOTICE, STOP = "crew", "notice.json", "stop"
END, INTERRUPTED, URGENT = "end", "interrupted", "urgent"


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A running search.

    ``ident`` tells one run of ``fit`` from the next in the same folder; ``most``: chains after which no
    new one is begun; ``study`` its name, ``storage`` its URL or None for the journal in the folder;
    ``began``: ``time.time()`` at which the clock stood at 0, ``limit`` where it ends.
    """

    ident: str
    plan: Plan
    settings: TuneSettings
    most: int
    study: str
    storage: str | None
    seed: int
    began: float
    limit: float
    log_level: int
    version: str = __version__


def crew_folder(files: RunFolder) -> Path:
    """Where the files of this module lie; the run must have a folder."""
    if files.path is None:
        raise RuntimeError("a search without a folder has no crew")
    return files.path / CREW


def write_notice(notice: Notice, job: TrainJob, folder: Path) -> None:
    """Write everything a worker needs into an emptied folder; ``notice.json`` appears last.

    Raises
    ------
    ConfigError
        The job holds something that is no plain value.
    OSError
        The folder can't be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = None if job.feature_cache is None else str(Path(job.feature_cache).absolute())
    job = replace(job, train=anchored(job.train), val=anchored(job.val), feature_cache=store)
    write_order(Order(job=job, deadline=notice.began + notice.limit, log_level=notice.log_level), folder)
    values = {f.name: getattr(notice, f.name) for f in dataclasses.fields(notice)}
    values["plan"] = _plan_to_json(notice.plan)
    values["settings"] = {
        name: getattr(notice.settings, name) for name in ("num_trials", "max_memory", "max_latency")
    }
    replace_text(folder / NOTICE, json.dumps(values))


def read_notice(folder: Path) -> Notice:
    """Inverse of :func:`write_notice`, without the job.

    Raises
    ------
    ArtifactError
        There is none, it is damaged, or another version of this package wrote it.
    """
    try:
        values = json.loads((folder / NOTICE).read_text(encoding="utf-8"))
        if values["version"] != __version__:
            raise ValueError(f"it is run by version {values['version']}, this is {__version__}")
        values["plan"] = _plan_from_json(values["plan"])
        values["settings"] = TuneSettings(**values["settings"])
        return Notice(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"The search in {folder.parent} can't be joined: {error}") from error


def read_job(folder: Path) -> TrainJob:
    """The job of a search.

    Raises
    ------
    ArtifactError
        It can't be read.
    """
    try:
        return read_order(folder).job
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / JOB} can't be read: {error}") from error


def new_ident() -> str:
    """A name for one run of a search."""
    return uuid.uuid4().hex


def began_at(elapsed: float) -> float:
    """``time.time()`` at which a clock that shows ``elapsed`` stood at 0."""
    return time.time() - elapsed


def _plan_to_json(plan: Plan) -> dict[str, Any]:
    values = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    values["config"] = plan.config.to_json()
    values["spaces"] = {name: space_to_json(space) for name, space in plan.spaces.items()}
    return values


def _plan_from_json(values: dict[str, Any]) -> Plan:
    spaces = {name: space_from_json(space) for name, space in values["spaces"].items()}
    return Plan(
        **{
            **values,
            "config": RunConfig.from_json(values["config"]),
            "spaces": spaces,
            "reasons": tuple(values["reasons"]),
            "rungs": tuple(float(end) for end in values["rungs"]),
        }
    )


def say_stop(folder: Path, word: str) -> None:
    """Tell every worker to stop, in one of the three ways."""
    replace_text(folder / STOP, word)


def heard_stop(folder: Path) -> str:
    """What :func:`say_stop` said; "" where nothing was; "end" where the folder is gone with its search."""
    try:
        return (folder / STOP).read_text(encoding="utf-8")
    except FileNotFoundError:
        return "" if folder.is_dir() else END
