"""What a segmentor shows of itself: pictures, diagrams, HTML. The work is done in the modules beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn import get_config
from sklearn.utils import estimator_html_repr

from semseg_automl.core.errors import unknown_name
from semseg_automl.core.log import verbosity as logging_at

if TYPE_CHECKING:
    from semseg_automl.estimator.displays import ConfusionMatrixDisplay, Display, MaskDisplay


class Looks:
    """The part of SemanticSegmentor that is looked at, by people and by scikit-learn."""

    def plot_predictions(self, data: Any, *, n: int = 4) -> MaskDisplay:
        """A MaskDisplay of up to ``n`` pictures: image, truth where ``data`` has masks, prediction."""
        from semseg_automl.estimator.displays import MaskDisplay

        seg: Any = self
        return MaskDisplay.from_estimator(seg, data, n=n)

    def plot_search(self, view: str = "history") -> Display:
        """A display of the search.

        Parameters
        ----------
        view
            "history": the scores of the models that the fit tried, and the best so far; "parameters":
            parallel coordinates; "rungs": how many models came how far; "time": who trained what when.

        Raises
        ------
        ConfigError
            Another view.
        """
        from semseg_automl.estimator.displays import SEARCH_VIEWS

        seg: Any = self
        if view not in SEARCH_VIEWS:
            raise unknown_name("view of the search", view, SEARCH_VIEWS)
        kind: Any = SEARCH_VIEWS[view]
        found: Display = kind.from_estimator(seg)
        return found

    def plot_confusion(self, data: Any, *, normalize: str | None = "true") -> ConfusionMatrixDisplay:
        """A ConfusionMatrixDisplay of a table with masks: pixels by true and predicted class."""
        from semseg_automl.estimator.displays import ConfusionMatrixDisplay

        seg: Any = self
        return ConfusionMatrixDisplay.from_estimator(seg, data, normalize=normalize)

    def report(self, path: str | os.PathLike[str], data: Any = None, y: Any = None, *, n: int = 12) -> Path:
        """Write one HTML page with everything in it, no scripts, nothing loaded from elsewhere.

        Parameters
        ----------
        path
            Of the page; a page that is there is replaced.
        data, y
            A table with masks. With it the page holds scores (95 % bootstrap intervals), scores per
            class, the confusion matrix and pictures; without it what the fit left: model, plan, time,
            models that were tried, curves.
        n
            Number of pictures: half of them are the worst, the others spread evenly over the rest.

        Returns
        -------
        pathlib.Path
            Of the page, absolute.

        Raises
        ------
        ArtifactError
            ``path`` can't be written.
        DataError, ConfigError
        """
        from semseg_automl.estimator.report import write_report

        seg: Any = self
        seg._require_fitted()
        with logging_at(seg.verbosity):
            return write_report(seg, path, data, y, n=n)

    def __sklearn_tags__(self) -> Any:
        """Tables of pictures, not numbers: scikit-learn's checks on number arrays don't apply."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.target_tags.required = False  # the masks may be a column of the table
        tags.target_tags.single_output = False
        return tags

    @property
    def _repr_html_(self) -> Any:
        """scikit-learn's diagram; below it, once fitted, scores, models, classes and plan.

        Absent where ``sklearn.set_config(display="text")`` turns diagrams off.
        """
        if get_config()["display"] != "diagram":
            raise AttributeError("_repr_html_ is only there with scikit-learn's display='diagram'")
        return self._as_html

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shown = {"text/plain": repr(self)}
        if get_config()["display"] == "diagram":
            shown["text/html"] = self._as_html()
        return shown

    def _as_html(self) -> str:
        seg: Any = self
        diagram: str = estimator_html_repr(seg)
        if not seg.__sklearn_is_fitted__():
            return diagram
        from semseg_automl.estimator.html import fitted_html

        return diagram + fitted_html(seg)
