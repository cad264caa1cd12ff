"""One fit at a time in a folder, also between processes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from semseg_automl.artifacts.layout import replace_file
from semseg_automl.core.errors import ArtifactError
from semseg_automl.core.log import get_logger

_LOG = get_logger("estimator")
LOCK, HOLDER = ".fit.lock", ".fit.json"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder for one fit; the system lets go of it when this process ends, however it ends.

    Raises
    ------
    ArtifactError
        Another fit holds it: names its process id and when it began.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ArtifactError(
            f"path={str(folder)!r} is in use: {_holder(folder)} is fitting into it. Wait until it has ended, "
            "or choose another folder."
        ) from error
    except (OSError, NotImplementedError) as error:  # a file system without locks
        _LOG.warning("%s can't be locked (%s): take care that no second fit writes there.", folder, error)
        yield
        return
    try:
        facts = {"pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # a full disk: a second fit is refused without these facts
            replace_file(folder / HOLDER, json.dumps(facts).encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, or have become read-only
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """The other fit in words."""
    try:
        facts = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {facts['pid']}, started {facts['started']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or is about to end
        return "another process"
