"""The confusion matrix over the pixels of a table, drawn by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semseg_automl.core.errors import unknown_name
from semseg_automl.estimator._drawing import Display

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_SUMS: dict[str | None, tuple[Any, str]] = {
    "true": (1, "share of the true class's pixels"),
    "pred": (0, "share of the predicted class's pixels"),
    "all": ((0, 1), "share of all pixels"),
    None: (None, "pixels"),
}
_MOST_WITH_NUMBERS = 12


@dataclass(kw_only=True, eq=False, repr=False)
class ConfusionMatrixDisplay(Display):
    """Pixels by true and predicted class.

    ``matrix``: (K, K) counts, rows are the truth; ``names``: of the classes; ``normalize``: what a cell is
    a share of: "true" (its row), "pred" (its column), "all" or None (counts). Shares of nothing are 0.
    """

    matrix: np.ndarray
    names: Sequence[str]
    normalize: str | None = "true"

    def __post_init__(self) -> None:
        if self.normalize not in _SUMS:
            raise unknown_name("normalize", self.normalize, [k for k in _SUMS if k])

    @classmethod
    def from_estimator(
        cls,
        estimator: SemanticSegmentor,
        data: Any,
        y: Any = None,
        *,
        normalize: str | None = "true",
        ax: Any = None,
    ) -> ConfusionMatrixDisplay:
        """Predict a table with masks and draw where its pixels went; ignored pixels are not counted."""
        return cls.collect(estimator, data, y, normalize=normalize).plot(ax)

    @classmethod
    def collect(
        cls, estimator: SemanticSegmentor, data: Any, y: Any = None, *, normalize: str | None = "true"
    ) -> ConfusionMatrixDisplay:
        """As :meth:`from_estimator`, without drawing."""
        from semseg_automl.estimator._use import measure

        estimator._require_fitted()
        matrix = measure(estimator, data, y).evaluator.confusion.matrix
        return cls(matrix=matrix, names=[str(n) for n in estimator.classes_], normalize=normalize)

    def shares(self) -> np.ndarray:
        """(K, K) float: what is drawn."""
        axis, _ = _SUMS[self.normalize]
        if self.normalize is None:
            return self.matrix
        total = self.matrix.sum(axis=axis, keepdims=True)
        return np.divide(self.matrix, total, out=np.zeros(self.matrix.shape), where=total > 0)

    def _draw(self, ax: Any) -> None:
        from sklearn.metrics import ConfusionMatrixDisplay as Drawn

        few = len(self.names) <= _MOST_WITH_NUMBERS
        drawn = Drawn(self.shares(), display_labels=self.names).plot(
            include_values=few,
            cmap="cividis",
            values_format=".3g" if self.normalize is None else ".2f",
            xticks_rotation=45 if max(map(len, self.names)) > 3 else 0,
            ax=ax,
            colorbar=False,
            im_kw=None if self.normalize is None else {"vmin": 0, "vmax": 1},
        )
        for label in ax.get_xticklabels():
            label.set_horizontalalignment("right" if label.get_rotation() else "center")
            label.set_rotation_mode("anchor")
        ax.figure.colorbar(drawn.im_, ax=ax, label=_SUMS[self.normalize][1])
        ax.set(xlabel="predicted", ylabel="true")

    def _size(self) -> tuple[float, float]:
        side = min(12.0, 3.0 + 0.5 * len(self.names))
        return side + 1.2, side
