"""One logger for the library; no handler is installed at import.

The estimator's ``verbosity`` maps to a level for the duration of a call:
0 errors, 1 warnings, 2 information (default), 3 and more debugging.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

LOGGER_NAME = "semseg_automl"
_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO}


def get_logger(room: str) -> logging.Logger:
    """Return the logger of a room, a child of ``semseg_automl``."""
    return logging.getLogger(f"{LOGGER_NAME}.{room}")


@contextlib.contextmanager
def verbosity(level: int) -> Iterator[None]:
    """Show the library's messages on stderr while the block runs, then restore the logger.

    If the user has configured logging (the library's logger or the root logger has a
    handler), only the level is changed and their handlers print.
    """
    logger = logging.getLogger(LOGGER_NAME)
    before = logger.level
    logger.setLevel(_LEVELS.get(level, logging.DEBUG if level > 2 else logging.ERROR))
    handler: logging.Handler | None = None
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        if handler is not None:
            logger.removeHandler(handler)
