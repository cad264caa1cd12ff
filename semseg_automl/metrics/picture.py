"""One picture as the per-picture metrics see it: classes, truth and, if binary, probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError
from semseg_automl.metrics.confusion import IGNORE
from semseg_automl.metrics.functional import mean_of_known


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a per-picture metric may look at; it is dropped as soon as its numbers are known.

    ``prediction``: (H, W) class indices; ``truth``: (H, W) class indices, IGNORE = -1 left out;
    ``probability``: (H, W) floats, the foreground's, None where there are only class indices;
    ``binary``: class 1 is the foreground.
    """

    prediction: NDArray
    truth: NDArray
    probability: NDArray | None
    binary: bool

    def foreground(self, metric: str) -> NDArray:
        """The foreground's probabilities (H, W); ConfigError naming ``metric`` where there are none."""
        if self.probability is None:
            raise ConfigError(
                f"The metric {metric!r} needs foreground probabilities, but class indices were given."
            )
        return self.probability

    def shown_masks(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield (prediction, truth) masks, (H, W) bool, without ignored pixels.

        Binary: the foreground alone; else every class; in both cases only those that truth or
        prediction shows.
        """
        valid = self.truth != IGNORE
        shown = np.union1d(self.prediction[valid], self.truth[valid])
        for k in shown if not self.binary else shown[shown == 1]:
            yield (self.prediction == k) & valid, self.truth == k

    def mean_over_classes(
        self, measure: Callable[[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]], float]
    ) -> float:
        """Mean of ``measure(prediction, truth, valid)`` over :meth:`shown_masks`, NaN entries left out."""
        valid = self.truth != IGNORE
        values = [measure(guess, truth, valid) for guess, truth in self.shown_masks()]
        return mean_of_known(np.array(values, dtype=np.float64))
