"""One progress bar for a whole fit: model, best score, loss, time left."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from semseg_automl.core.log import LOGGER_NAME
from semseg_automl.search.budget import Budget

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {postfix}"


@contextlib.contextmanager
def progress_bar(shown: bool, budget: Budget) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield the callable that training tells its progress; silent where stderr is no terminal.

    One bar for the whole fit: phase, model, best score so far over all models, time left. Messages that
    are logged meanwhile stand above it. In a notebook tqdm's own widget is used.
    """
    if not shown or not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield lambda _event: None
        return
    tqdm = _tqdm()
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar = tqdm(total=100.0, bar_format=_FORMAT, leave=True, desc="plan")
    best = math.nan

    def show(event: Mapping[str, Any]) -> None:
        nonlocal best
        best = max((s for s in (best, float(event.get("score", math.nan))) if s == s), default=math.nan)
        left = float(event.get("time_left", math.inf))
        done = (
            budget.elapsed() / budget.limit
            if math.isfinite(budget.limit)
            else float(event.get("fraction", 0.0))
        )
        bar.n = round(100.0 * min(1.0, done), 1)
        bar.set_description_str(phase(str(event.get("model", ""))), refresh=False)
        bar.set_postfix_str(describe({**event, "score": best}, left), refresh=False)
        bar.update(0)

    try:
        with logging_redirect_tqdm([logging.getLogger(LOGGER_NAME)], tqdm_class=tqdm):  # lines above the bar
            yield show
    finally:
        bar.close()


def _tqdm() -> Any:
    """tqdm's bar of this place; without a word where a notebook lacks the widgets and gets a line of text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm.TqdmWarning: IProgress not found
        from tqdm.auto import tqdm
    return tqdm


def phase(model: str) -> str:
    """What is being done, in words: models are called "default", "trial_N" or "finish"."""
    return model if model in ("", "finish") else f"train {model}"


def describe(event: Mapping[str, Any], left: float) -> str:
    """The text behind the bar."""
    scores = [float(event.get(name, math.nan)) for name in ("score", "best")]
    score = max((s for s in scores if not math.isnan(s)), default=math.nan)
    parts = [f"step {int(event.get('step', 0))}", f"loss {float(event.get('loss', math.nan)):.3f}"]
    if event.get("models"):
        parts.insert(0, f"{int(event['models'])} before it")
    parts.append("best -" if math.isnan(score) else f"best {score:.4f}")
    if math.isfinite(left):
        parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
    return ", ".join(parts)
