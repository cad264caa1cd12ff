"""What an engine is: something that runs a search and answers with its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from semseg_automl.search.budget import Budget, Interrupt
from semseg_automl.search.outcome import Outcome
from semseg_automl.search.planner import Fingerprint
from semseg_automl.search.request import FitRequest
from semseg_automl.training.job import TrainJob


class Engine(Protocol):
    """Runs a search somewhere; the algorithm is ``search.run``'s."""

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
