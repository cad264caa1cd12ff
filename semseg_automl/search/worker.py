"""A helper of a search on this machine: ``python -m semseg_automl.search.worker MODEL_FOLDER NAME DEVICE``.

Started by ``search.crew``, never by hand (by hand: ``semseg-automl worker``). Heavy imports come after the
watch on the parent, so that a process whose parent died ends at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from semseg_automl.core.log import LOGGER_NAME
from semseg_automl.core.processes import end_with_parent


def main(folder: Path, name: str, position: int) -> int:
    """Help the search in a model's folder on the job's device number ``position``; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks for a stop
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        _help(folder, name, position)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _help(folder: Path, name: str, position: int) -> None:
    import torch

    from semseg_automl.search.join import help_search
    from semseg_automl.search.notice import crew_folder, read_notice
    from semseg_automl.search.run_folder import RunFolder
    from semseg_automl.training.worker import EventLog

    torch.set_num_threads(max(1, int(os.environ["OMP_NUM_THREADS"])))
    crew = crew_folder(RunFolder(folder))
    events = EventLog(crew / f"{name}.jsonl")
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(read_notice(crew).log_level)
    logger.addHandler(events)
    help_search(folder, name, position=position, progress=events.progress)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
