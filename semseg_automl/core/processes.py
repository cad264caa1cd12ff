"""Processes of this package: started without running the user's script again, ended with their starter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def package_environment(threads: int) -> dict[str, str]:
    """This process's variables, with ``threads`` for arithmetic and the places where we found modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(p for p in dict.fromkeys(sys.path) if p),
    }


def start_module(
    module: str, arguments: Iterable[str], environment: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Run ``python -m module`` in a group of its own, so that Ctrl-C in a terminal reaches this process only.

    What it writes goes to ``log``. It gets a pipe as stdin that stays open as long as this process lives;
    see :func:`end_with_parent`.
    """
    group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            **group,
        )


def end_with_parent() -> None:
    """Wait for the end of stdin, then leave at once; runs in a thread of a process that was started here.

    The parent holds the other end and writes nothing: its end means the parent's, however that died.
    """
    while os.read(0, 1024):
        pass
    os._exit(1)


def end_all(processes: Iterable[subprocess.Popen[bytes]], patience: float = 0.0) -> None:
    """Wait ``patience`` seconds in all for processes to end by themselves, then kill what still runs.

    What they have started (processes that read pictures) is in their group and ends, too, but on Windows.
    """
    running, until = list(processes), time.monotonic() + patience
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(process)
    for process in running:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of the group have ended
            os.killpg(process.pid, signal.SIGKILL)


def last_lines(log: Path, count: int = 15) -> str:
    """The end of what a process wrote; empty where it wrote nothing."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
