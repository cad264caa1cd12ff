"""Two diagrams of a fit: the scores of the models it tried, and the kept model's score over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semseg_automl.core.results import ModelRow
from semseg_automl.estimator._drawing import Display
from semseg_automl.estimator.baseline import NAME as BASELINE
from semseg_automl.estimator.colours import PALETTE
from semseg_automl.metrics import registry

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

ORANGE, SKY, GREEN, _, BLUE, VERMILLION = (tuple(c / 255) for c in PALETTE[1:7])
_MARKERS = {"pruned": ("v", SKY, "pruned"), "failed": ("x", VERMILLION, "failed")}
_DONE = ("o", BLUE, "trained")


@dataclass(kw_only=True, eq=False, repr=False)
class SearchDisplay(Display):
    """Validation scores of the models in the order of their training, and the best so far.

    ``rows``: the leaderboard's, in that order; ``metric``: the name of the score.
    """

    rows: Sequence[ModelRow]
    metric: str

    @classmethod
    def from_estimator(cls, estimator: SemanticSegmentor, *, ax: Any = None) -> SearchDisplay:
        """Draw what the fit tried; a model that failed stands at the lower edge."""
        return cls.collect(estimator).plot(ax)

    @classmethod
    def collect(cls, estimator: SemanticSegmentor) -> SearchDisplay:
        """As :meth:`from_estimator`, without drawing."""
        estimator._require_fitted()
        return cls(rows=list(estimator._rows), metric=score_name(estimator))

    def _draw(self, ax: Any) -> None:
        models = [row for row in self.rows if row.model != BASELINE]
        scores = np.array([row.score_val for row in models], dtype=float)
        at = np.arange(1, len(models) + 1)
        known = ~np.isnan(scores)
        if known.any():
            best = np.maximum.accumulate(np.where(known, scores, -np.inf))
            best[np.isneginf(best)] = np.nan
            ax.step(at, best, where="post", color=ORANGE, label="best so far", zorder=1)
        for row in self.rows:
            if row.model == BASELINE and not math.isnan(row.score_val):
                ax.axhline(row.score_val, color="0.5", linestyle="--", linewidth=1, label="commonest class")
        lowest = ax.get_ylim()[0]
        kinds = [_MARKERS.get(row.state, _DONE) for row in models]
        for kind in dict.fromkeys(kinds):
            marker, colour, label = kind
            here = np.array([k == kind for k in kinds], dtype=bool)
            heights = np.where(known, scores, lowest)[here]
            ax.scatter(at[here], heights, marker=marker, color=colour, label=label, zorder=2, s=36)
        if known.any():
            top = int(np.nanargmax(scores))
            ax.annotate(
                f"{models[top].model} {scores[top]:.4f}",
                (at[top], scores[top]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="left" if top < len(models) / 2 else "right",
                fontsize=9,
            )
        ax.margins(x=0.08, y=0.15)
        ax.xaxis.get_major_locator().set_params(integer=True)
        finish_axes(ax, "model, in the order of training", self.metric)


@dataclass(kw_only=True, eq=False, repr=False)
class LearningCurveDisplay(Display):
    """The kept model's validation scores over its optimiser steps.

    ``steps``: (N,), ``scores``: (N,); ``kept``: the kept weights' score, drawn as a line.
    """

    steps: Sequence[int]
    scores: Sequence[float]
    metric: str
    kept: float = math.nan

    @classmethod
    def from_estimator(cls, estimator: SemanticSegmentor, *, ax: Any = None) -> LearningCurveDisplay:
        """Draw the validations of the run that the kept model comes from."""
        return cls.collect(estimator).plot(ax)

    @classmethod
    def collect(cls, estimator: SemanticSegmentor) -> LearningCurveDisplay:
        """As :meth:`from_estimator`, without drawing."""
        history = estimator.fit_summary(show=False).get("history", ())
        return cls(
            steps=[int(step) for step, _, _ in history],
            scores=[float(score) for _, _, score in history],
            metric=score_name(estimator),
            kept=estimator.best_score_,
        )

    def _draw(self, ax: Any) -> None:
        ax.plot(self.steps, self.scores, "o-", color=BLUE, markersize=4, label="validation")
        if not math.isnan(self.kept):
            ax.axhline(self.kept, color=ORANGE, linewidth=1, linestyle="--", label=f"kept: {self.kept:.4f}")
        ax.xaxis.get_major_locator().set_params(integer=True)
        finish_axes(ax, "optimiser steps", self.metric)


def score_name(estimator: SemanticSegmentor) -> str:
    """The eval metric as an axis label."""
    return f"{registry.score_name(estimator.eval_metric_, estimator.problem_type_)} on validation"


def finish_axes(ax: Any, xlabel: str, ylabel: str) -> None:
    """Labels, a light grid, no frame, a legend where something has a name."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=9, frameon=False)
