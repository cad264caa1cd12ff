"""Diagrams in scikit-learn's manner: ``XDisplay.from_estimator(seg, ...)``, ``.plot(ax=)``, ``.save(path)``.

Colours are told apart by colour-blind readers. matplotlib is loaded when something is drawn.
"""

from __future__ import annotations

from semseg_automl.estimator._curves import LearningCurveDisplay, SearchDisplay
from semseg_automl.estimator._drawing import Display
from semseg_automl.estimator._masks_shown import ErrorGalleryDisplay, MaskDisplay
from semseg_automl.estimator._matrix import ConfusionMatrixDisplay
from semseg_automl.estimator._search_views import (
    SearchParametersDisplay,
    SearchRungsDisplay,
    SearchTimeDisplay,
)

__all__ = [
    "SEARCH_VIEWS",
    "ConfusionMatrixDisplay",
    "Display",
    "ErrorGalleryDisplay",
    "LearningCurveDisplay",
    "MaskDisplay",
    "SearchDisplay",
    "SearchParametersDisplay",
    "SearchRungsDisplay",
    "SearchTimeDisplay",
]

SEARCH_VIEWS: dict[str, type[Display]] = {
    "history": SearchDisplay,
    "parameters": SearchParametersDisplay,
    "rungs": SearchRungsDisplay,
    "time": SearchTimeDisplay,
}
"""What ``plot_search`` can draw."""
