"""The metrics by name: what they need, which direction is better, and the default reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.metrics import functional


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What an evaluation has counted: everything that a metric may look at.

    ``matrix``: (K, K) over the data set; ``images``: one (K, K) per picture; ``binary``: class 1 is
    the foreground; ``mae``: mean |p - t|, None where a picture came without probabilities.
    """

    matrix: NDArray[np.int64]
    images: tuple[NDArray[np.int64], ...]
    binary: bool
    mae: float | None


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric. ``compute`` returns a float, NaN where the metric is undefined."""

    name: str
    greater_is_better: bool
    problem_types: tuple[str, ...]
    needs_probability: bool
    compute: Callable[[Evidence], float]

    def score(self, value: float) -> float:
        """The value with the sign that makes higher better."""
        return value if self.greater_is_better else -value


def _mean_image_iou(evidence: Evidence) -> float:
    per_image = functional.binary_iou if evidence.binary else functional.mean_iou
    return functional.mean_of_known(np.array([per_image(m) for m in evidence.images], dtype=np.float64))


def _mae(evidence: Evidence) -> float:
    if evidence.mae is None:
        raise ConfigError("The metric 'mae' needs foreground probabilities, but class indices were given.")
    return evidence.mae


def _spec(
    name: str,
    compute: Callable[[Evidence], float],
    *,
    greater: bool = True,
    problem_types: tuple[str, ...] = ("binary", "multiclass"),
    probability: bool = False,
) -> MetricSpec:
    return MetricSpec(
        name=name,
        greater_is_better=greater,
        problem_types=problem_types,
        needs_probability=probability,
        compute=compute,
    )


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        _spec("iou", lambda e: functional.binary_iou(e.matrix), problem_types=("binary",)),
        _spec("mean_iou", lambda e: functional.mean_iou(e.matrix)),
        _spec("mean_image_iou", _mean_image_iou),
        _spec("dice", lambda e: functional.dice(e.matrix, binary=e.binary)),
        _spec("pixel_accuracy", lambda e: functional.pixel_accuracy(e.matrix)),
        _spec("ber", lambda e: functional.ber(e.matrix), greater=False),
        _spec("mae", _mae, greater=False, problem_types=("binary",), probability=True),
    )
}

DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("iou", "dice", "pixel_accuracy", "ber", "mae"),
    "multiclass": ("mean_iou", "dice", "pixel_accuracy"),
}

DEFAULT_EVAL_METRIC: dict[str, str] = {"binary": "iou", "multiclass": "mean_iou"}


def resolve_metric(name: str | None, problem_type: str) -> MetricSpec:
    """Return the metric of that name, or the problem type's default for None.

    Raises
    ------
    ConfigError
        If the name or problem type is unknown, or the metric doesn't apply to the problem type.
    """
    if problem_type not in DEFAULT_EVAL_METRIC:
        raise unknown_name("problem_type", problem_type, DEFAULT_EVAL_METRIC)
    chosen = DEFAULT_EVAL_METRIC[problem_type] if name is None else name
    if chosen not in METRICS:
        raise unknown_name("metric", chosen, METRICS)
    spec = METRICS[chosen]
    if problem_type not in spec.problem_types:
        fitting = ", ".join(sorted(n for n, s in METRICS.items() if problem_type in s.problem_types))
        raise ConfigError(f"The metric {chosen!r} is not for {problem_type} problems. Use one of: {fitting}.")
    return spec


def resolve_metrics(names: str | Iterable[str] | None, problem_type: str) -> tuple[MetricSpec, ...]:
    """Return several metrics: one name, many, or None for the problem type's default report."""
    if problem_type not in DEFAULT_METRICS:
        raise unknown_name("problem_type", problem_type, DEFAULT_METRICS)
    if names is None:
        names = DEFAULT_METRICS[problem_type]
    return tuple(resolve_metric(n, problem_type) for n in ([names] if isinstance(names, str) else names))
