"""Running one benchmark in a process of its own, so that memory and threads start fresh."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def run_apart(command: Sequence[str]) -> tuple[int, str] | None:
    """Run a command to its end.

    Returns
    -------
    tuple or None
        Exit code and last line of stderr; None where it was stopped from outside. Ctrl-C kills it: passed
        on, it would end a fit early, whose result would look like any other.
    """
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, errors = process.communicate()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        return None
    if process.returncode < 0:
        return None
    lines = errors.strip().splitlines()
    return process.returncode, lines[-1] if lines else f"exit code {process.returncode}"
