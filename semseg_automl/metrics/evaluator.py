"""One pass over pictures, every metric at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.metrics import bootstrap, functional
from semseg_automl.metrics.confusion import ConfusionMatrix, confusion
from semseg_automl.metrics.picture import Picture
from semseg_automl.metrics.probability import ThresholdCurve
from semseg_automl.metrics.registry import Evidence, MetricSpec, UserMetric, resolve_metrics

Names = str | UserMetric | Iterable[str | UserMetric] | None
"""One metric (a name or a function) or many; None: the default of the place that takes it."""


class Evaluator:
    """Adds up pictures one at a time; keeps a (K, K) matrix and a few numbers per picture, never pictures.

    Parameters
    ----------
    n_classes
        Number of classes K (binary: 2).
    binary
        Whether class 1 is a foreground that is decided by a threshold.
    threshold
        Binary only: a pixel is foreground if its probability is at least this.
    metrics
        What will be asked for. Metrics that are measured on each picture (s_measure, boundary_f,
        functions, ...) cost time at :meth:`add` and must be named here; the others, such as those of the
        default report, are there in any case.

    Attributes
    ----------
    curve
        :class:`ThresholdCurve` of the pictures added with probabilities; None if not binary.
    """

    def __init__(
        self, n_classes: int, binary: bool, threshold: float = 0.5, *, metrics: Names = None
    ) -> None:
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
        self._errors: list[tuple[float, int] | None] = []  # sum of |p - t| and pixels; None: no probabilities
        self._specs = {s.name: s for s in resolve_metrics(metrics, self.problem_type) if s.measure}
        self._measured: dict[str, list[float]] = {name: [] for name in self._specs}

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
        values = self._measure(
            Picture(prediction=pred, truth=target, probability=foreground, binary=self.binary)
        )
        error: tuple[float, int] | None = None
        if foreground is not None and self.curve is not None:
            error = self.curve.update(foreground, target)
        self.confusion.matrix += added
        self._images.append(added)
        self._errors.append(error)
        for name, value in values.items():
            self._measured[name].append(value)

    def merge(self, other: Evaluator) -> None:
        """Append another evaluator's pictures (same classes, threshold and per-picture metrics)."""
        if (other.binary, other.threshold) != (self.binary, self.threshold):
            raise ConfigError("Can't merge evaluations of different problem types or thresholds.")
        if self._specs.keys() != other._specs.keys():
            raise ConfigError(
                f"Can't merge evaluations that measured different metrics on each picture: "
                f"{sorted(self._specs)} and {sorted(other._specs)}."
            )
        self.confusion.merge(other.confusion)
        if self.curve is not None and other.curve is not None:
            self.curve.merge(other.curve)
        self._images += other._images
        self._errors += other._errors
        for name, values in other._measured.items():
            self._measured[name] += values

    def result(self, names: Names = None) -> dict[str, float]:
        """Metrics of the whole data set by name; None means the problem type's default report.

        Metrics measured on each picture are the mean over pictures, those with NaN left out.

        Raises
        ------
        ConfigError
            If a name is unknown, "mae" is asked for where a picture came as class indices, or a metric
            that is measured on each picture was not announced in ``metrics``.
        """
        evidence = Evidence(
            matrix=self.confusion.matrix,
            images=tuple(self._images),
            binary=self.binary,
            mae=self._mae(np.ones(len(self), dtype=np.int64)),
            measured={name: tuple(values) for name, values in self._measured.items()},
        )
        return {spec.name: spec.compute(evidence) for spec in self._resolve(names)}

    def intervals(
        self, names: Names = None, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> dict[str, dict[str, float]]:
        """Bootstrap confidence intervals: pictures are drawn with replacement, metrics computed anew.

        Dataset-level metrics come from the sums of the drawn pictures' confusion matrices, the others
        are means of the drawn pictures' values. The same draws serve every metric.

        Parameters
        ----------
        names
            As in :meth:`result`.
        level
            Share of the resampled values inside the interval (percentile interval), in 0..1.
        resamples, seed
            Number of draws, and what makes them repeatable.

        Returns
        -------
        By metric: value, low and high. Draws in which the metric is NaN are left out; with fewer than
        two pictures low and high are NaN.
        """
        bootstrap.check_level(level)
        specs = self._resolve(names)
        values = self.result(names)
        single = {s.name: self._alone(s) for s in specs if s.per_picture}
        drawn: dict[str, list[float]] = {s.name: [] for s in specs}
        # (N, K, K) -> (N, K * K); sums of floats below 2**53 are exact, and their product is fast
        images = np.array(self._images, dtype=np.float64).reshape(len(self), self.n_classes**2)
        for counts in bootstrap.draws(len(self), resamples if len(self) > 1 else 0, seed):
            matrix = (counts @ images).astype(np.int64).reshape(self.n_classes, self.n_classes)
            evidence = Evidence(matrix=matrix, images=(), binary=self.binary, mae=self._mae(counts))
            for spec in specs:
                alone = single.get(spec.name)
                drawn[spec.name].append(
                    spec.compute(evidence) if alone is None else bootstrap.weighted_mean(alone, counts)
                )
        ends = {name: bootstrap.interval(np.array(found), level) for name, found in drawn.items()}
        return {
            name: {"value": value, "low": ends[name][0], "high": ends[name][1]}
            for name, value in values.items()
        }

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

    def per_image(self, names: Names = None) -> list[dict[str, float]]:
        """A row of metrics per picture, in the order added; None means the default report."""
        specs = self._resolve(names)
        return [{spec.name: spec.compute(self._picture(i)) for spec in specs} for i in range(len(self))]

    def _resolve(self, names: Names) -> tuple[MetricSpec, ...]:
        specs = resolve_metrics(names, self.problem_type)
        missing = [s.name for s in specs if s.measure and s.name not in self._measured]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)}: measured on each picture as it is added. "
                f"Announce it: Evaluator(..., metrics={missing!r})."
            )
        return specs

    def _measure(self, picture: Picture) -> dict[str, float]:
        return {name: spec.measure(picture) for name, spec in self._specs.items() if spec.measure}

    def _picture(self, i: int) -> Evidence:
        """The evidence of picture ``i`` alone."""
        error = self._errors[i]
        mae = None if error is None else error[0] / error[1] if error[1] else float("nan")
        measured = {name: (values[i],) for name, values in self._measured.items()}
        matrix = self._images[i]
        return Evidence(matrix=matrix, images=(matrix,), binary=self.binary, mae=mae, measured=measured)

    def _alone(self, spec: MetricSpec) -> NDArray[np.float64]:
        """The metric's value on each picture alone, (N,)."""
        return np.array([spec.compute(self._picture(i)) for i in range(len(self))], dtype=np.float64)

    def _mae(self, counts: NDArray[np.int64]) -> float | None:
        """Mean |p - t| with every picture ``counts`` times; None if one came without probabilities."""
        if self.curve is None or None in self._errors:
            return None
        sums = np.array([e for e in self._errors if e is not None], dtype=np.float64).reshape(-1, 2)
        error, pixels = counts @ sums  # (N,) @ (N, 2) -> (2,)
        return float(error / pixels) if pixels else float("nan")

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
