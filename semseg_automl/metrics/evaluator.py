"""One pass over pictures, every metric at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.metrics import functional
from semseg_automl.metrics.confusion import ConfusionMatrix, confusion
from semseg_automl.metrics.probability import ThresholdCurve
from semseg_automl.metrics.registry import Evidence, MetricSpec, resolve_metrics


class Evaluator:
    """Adds up pictures one at a time; keeps a (K, K) matrix per picture, never the pictures.

    Parameters
    ----------
    n_classes
        Number of classes K (binary: 2).
    binary
        Whether class 1 is a foreground that is decided by a threshold.
    threshold
        Binary only: a pixel is foreground if its probability is at least this.

    Attributes
    ----------
    curve
        :class:`ThresholdCurve` of the pictures added with probabilities; None if not binary.
    """

    def __init__(self, n_classes: int, binary: bool, threshold: float = 0.5) -> None:
        if binary and n_classes != 2:
            raise ConfigError(f"A binary evaluation has n_classes=2, got {n_classes}.")
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must lie in 0..1, got {threshold}.")
        self.n_classes = n_classes
        self.binary = binary
        self.threshold = threshold
        self.confusion = ConfusionMatrix(n_classes)
        self.curve = ThresholdCurve() if binary else None
        self._images: list[NDArray[np.int64]] = []
        self._mae: list[float | None] = []  # one per picture; None: no probabilities

    def __len__(self) -> int:
        return len(self._images)

    @property
    def problem_type(self) -> str:
        """ "binary" or "multiclass"."""
        return "binary" if self.binary else "multiclass"

    def add(self, probabilities: NDArray, target: NDArray) -> None:
        """Add one picture.

        Parameters
        ----------
        probabilities
            (K, H, W) floats (ties of the largest go to the lower class); or, if binary, (H, W)
            floats, the foreground's; or (H, W) integers, class indices (then there is no MAE).
        target
            (H, W) integer class indices; IGNORE = -1 is left out.

        Raises
        ------
        DataError
            If sizes, classes or (binary) probabilities are out of range, or one is NaN.
        """
        foreground: NDArray | None = None
        if probabilities.dtype.kind not in "iub":
            foreground = self._foreground(probabilities)
        if probabilities.dtype.kind in "iub":
            pred = probabilities
        elif foreground is not None:
            pred = foreground >= self.threshold
        else:
            pred = probabilities.argmax(0)  # (K, H, W) -> (H, W)
        added = confusion(pred, target, self.n_classes)
        mae: float | None = None
        if foreground is not None and self.curve is not None:
            error, pixels = self.curve.update(foreground, target)
            mae = error / pixels if pixels else float("nan")
        self.confusion.matrix += added
        self._images.append(added)
        self._mae.append(mae)

    def merge(self, other: Evaluator) -> None:
        """Append another evaluator's pictures (same classes, same threshold)."""
        if (other.binary, other.threshold) != (self.binary, self.threshold):
            raise ConfigError("Can't merge evaluations of different problem types or thresholds.")
        self.confusion.merge(other.confusion)
        if self.curve is not None and other.curve is not None:
            self.curve.merge(other.curve)
        self._images += other._images
        self._mae += other._mae

    def result(self, names: str | Iterable[str] | None = None) -> dict[str, float]:
        """Dataset-level metrics by name; None means the problem type's default report.

        Raises ConfigError for unknown names, and for "mae" where a picture came as class indices.
        """
        mae: float | None = None
        if self.curve is not None and None not in self._mae:
            mae = self.curve.mae()
        evidence = Evidence(
            matrix=self.confusion.matrix, images=tuple(self._images), binary=self.binary, mae=mae
        )
        return {spec.name: spec.compute(evidence) for spec in resolve_metrics(names, self.problem_type)}

    def per_class(self) -> list[dict[str, float]]:
        """A row per class: index, iou, dice, precision, recall, true and predicted pixels.

        Values are NaN where undefined (see :mod:`semseg_automl.metrics.functional`).
        """
        matrix = self.confusion.matrix
        columns = {
            "iou": functional.per_class_iou(matrix),
            "dice": functional.per_class_dice(matrix),
            "precision": functional.per_class_precision(matrix),
            "recall": functional.per_class_recall(matrix),
            "pixels": matrix.sum(1),
            "predicted_pixels": matrix.sum(0),
        }
        return [
            {"class": k} | {name: values[k].item() for name, values in columns.items()}
            for k in range(self.n_classes)
        ]

    def per_image(self, names: str | Iterable[str] | None = None) -> list[dict[str, float]]:
        """A row of metrics per picture, in the order added; None means the default report."""
        specs = resolve_metrics(names, self.problem_type)
        return [self._row(specs, m, mae) for m, mae in zip(self._images, self._mae, strict=True)]

    def _row(self, specs: tuple[MetricSpec, ...], matrix: NDArray, mae: float | None) -> dict[str, float]:
        evidence = Evidence(matrix=matrix, images=(matrix,), binary=self.binary, mae=mae)
        return {spec.name: spec.compute(evidence) for spec in specs}

    def _foreground(self, probabilities: NDArray) -> NDArray | None:
        """The foreground's probability (H, W), or None for multi-class; checks the shape."""
        if self.binary and probabilities.ndim == 2:
            return probabilities
        if probabilities.ndim != 3 or probabilities.shape[0] != self.n_classes:
            wanted = f"({self.n_classes}, H, W)" + (" or (H, W)" if self.binary else "")
            raise DataError(f"Probabilities must have shape {wanted}, got {probabilities.shape}.")
        if not self.binary:
            if np.isnan(probabilities).any():
                raise DataError("Probabilities must not be NaN.")
            return None
        return probabilities[1]
