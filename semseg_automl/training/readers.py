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
    if killed := killed_reader(error):
        return killed
    lines = str(error).strip().splitlines()
    return next((line.strip() for line in reversed(lines) if any(sign in line for sign in _STARVED)), None)


def killed_reader(error: BaseException) -> str | None:
    """In words that a reading process was killed; None for other errors.

    torch raises that in a signal handler, wherever this process is: in the midst of a picture, too,
    where the reader of pictures takes it for the picture's fault (a DataError with torch's words).
    """
    killed = _KILLED.search(str(error))
    return killed.group().strip() if killed else None


def in_own_words(error: DataError) -> DataError:
    """The error that a reading process met, without the traceback that torch puts into its message."""
    text = str(error)
    if not text.startswith(_CAUGHT):
        return error
    return DataError(text.rpartition(f"{DataError.__module__}.{DataError.__name__}: ")[2].strip())
