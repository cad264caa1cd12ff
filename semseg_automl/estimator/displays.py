"""Diagrams in scikit-learn's manner: ``XDisplay.from_estimator(seg, ...)``, ``.plot(ax=)``, ``.save(path)``.

Colours are told apart by colour-blind readers. matplotlib is loaded when something is drawn.
"""

from __future__ import annotations

from semseg_automl.estimator._curves import LearningCurveDisplay, SearchDisplay
from semseg_automl.estimator._drawing import Display
from semseg_automl.estimator._masks_shown import ErrorGalleryDisplay, MaskDisplay
from semseg_automl.estimator._matrix import ConfusionMatrixDisplay

__all__ = [
    "ConfusionMatrixDisplay",
    "Display",
    "ErrorGalleryDisplay",
    "LearningCurveDisplay",
    "MaskDisplay",
    "SearchDisplay",
]
