"""Processes that read pictures for a training (PyTorch's data workers): how their faults look from here."""

from __future__ import annotations

import re

from semseg_automl.core.errors import DataError

_KILLED = re.compile(r"DataLoader worker \(pid[^\n]*")
_STARVED = ("shared memory", "</torch_", "received 0 items of ancdata", "Too many open files")
"""What torch says where /dev/shm or the file handles for passing batches on are used up."""
_CAUGHT = "Caught DataError in DataLoader worker process"


def lost_reader(error: BaseException) -> str | None:
    """In words that a reading process was killed or could not pass a batch on; None for other errors.

    The words are torch's, which has no class for it; they are also found in the error that a process
    of a training on several devices has left.
    """
    text = str(error)
    if killed := _KILLED.search(text):
        return killed.group().strip()
    lines = text.strip().splitlines()
    return next((line.strip() for line in reversed(lines) if any(sign in line for sign in _STARVED)), None)


def in_own_words(error: DataError) -> DataError:
    """The error that a reading process met, without the traceback that torch puts into its message."""
    text = str(error)
    if not text.startswith(_CAUGHT):
        return error
    return DataError(text.rpartition(f"{DataError.__module__}.{DataError.__name__}: ")[2].strip())
