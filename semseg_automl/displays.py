"""Pictures of data, predictions, scores and the search (see ``estimator.displays``)."""

from semseg_automl.estimator.displays import (
    SEARCH_VIEWS,
    ConfusionMatrixDisplay,
    Display,
    ErrorGalleryDisplay,
    LearningCurveDisplay,
    MaskDisplay,
    SearchDisplay,
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
