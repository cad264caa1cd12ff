"""The default engine: trials run one after another in this process, the final training on every device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from semseg_automl.engines.base import Engine
from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.planner import Fingerprint
from semseg_automl.search.request import FitRequest
from semseg_automl.search.run import run_search
from semseg_automl.training.job import TrainJob


class LocalEngine:
    """Runs a search in the calling process."""

    def run(
        self,
        request: FitRequest,
        job: TrainJob,
        print_: Fingerprint,
        budget: Budget,
        stop: Interrupt,
        *,
        on_best: Callable[[Outcome], None],
        progress: Callable[[Mapping[str, Any]], None],
    ) -> Outcome:
        """See ``search.run.run_search``."""
        return run_search(request, job, print_, budget, stop, on_best=on_best, progress=progress)


ENGINES: dict[str, Engine] = {"local": LocalEngine()}
