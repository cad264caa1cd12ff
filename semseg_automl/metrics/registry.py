"""The metrics by name: what they need, which direction is better, and the default reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.metrics import boundary, functional, saliency, skeleton
from semseg_automl.metrics.picture import Picture

UserMetric = Callable[[NDArray, NDArray], float]
"""(truth (H, W), prediction (H, W)), class indices with -1 = ignored in the truth, -> float."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What an evaluation has counted: everything that a metric may look at.

    ``matrix``: (K, K) over the data set; ``images``: one (K, K) per picture; ``binary``: class 1 is
    the foreground; ``mae``: mean |p - t|, None where a picture came without probabilities;
    ``measured``: by metric, one float per picture.
    """

    matrix: NDArray[np.int64]
    images: tuple[NDArray[np.int64], ...]
    binary: bool
    mae: float | None
    measured: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric. ``compute`` returns a float, NaN where the metric is undefined.

    ``measure``, if there is one, is called once per picture while that picture is at hand;
    ``compute`` then finds its values in ``Evidence.measured``. ``per_picture``: the metric is the mean
    over pictures of its value for each alone, NaN values left out.
    """

    name: str
    greater_is_better: bool
    problem_types: tuple[str, ...]
    needs_probability: bool
    compute: Callable[[Evidence], float]
    measure: Callable[[Picture], float] | None = None
    per_picture: bool = False

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
    per_picture: bool = False,
) -> MetricSpec:
    return MetricSpec(
        name=name,
        greater_is_better=greater,
        problem_types=problem_types,
        needs_probability=probability,
        compute=compute,
        per_picture=per_picture,
    )


def _measured(
    name: str,
    measure: Callable[[Picture], float],
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
        compute=lambda evidence: functional.mean_of_known(np.array(evidence.measured[name], np.float64)),
        measure=measure,
        per_picture=True,
    )


def _saliency(name: str, compute: Callable[[NDArray, NDArray], float]) -> MetricSpec:
    return _measured(
        name,
        lambda picture: compute(picture.foreground(name), picture.truth),
        problem_types=("binary",),
        probability=True,
    )


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        _spec("iou", lambda e: functional.binary_iou(e.matrix), problem_types=("binary",)),
        _spec("mean_iou", lambda e: functional.mean_iou(e.matrix)),
        _spec("mean_image_iou", _mean_image_iou, per_picture=True),
        _spec("dice", lambda e: functional.dice(e.matrix, binary=e.binary)),
        _spec("pixel_accuracy", lambda e: functional.pixel_accuracy(e.matrix)),
        _spec("ber", lambda e: functional.ber(e.matrix), greater=False),
        _spec("kappa", lambda e: functional.kappa(e.matrix)),
        _spec("mae", _mae, greater=False, problem_types=("binary",), probability=True),
        _saliency("s_measure", saliency.s_measure),
        _saliency("e_measure", saliency.e_measure),
        _saliency("f_measure", saliency.f_measure),
        _saliency("weighted_f_measure", saliency.weighted_f_measure),
        _measured("boundary_f", lambda p: p.mean_over_classes(boundary.boundary_f)),
        _measured("hausdorff_95", lambda p: p.mean_over_classes(boundary.hausdorff_95), greater=False),
        _measured("cl_dice", lambda p: p.mean_over_classes(skeleton.cl_dice)),
    )
}

DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("iou", "dice", "pixel_accuracy", "ber", "mae"),
    "multiclass": ("mean_iou", "dice", "pixel_accuracy"),
}

DEFAULT_EVAL_METRIC: dict[str, str] = {"binary": "iou", "multiclass": "mean_iou"}


def check_metric_name(name: object) -> None:
    """Raise ConfigError for what is no problem's eval metric: a function, or an unknown name."""
    if callable(name):
        raise ConfigError(
            f"eval_metric must be a name, got {name!r}: a function can't be stored with a model. "
            "Give functions to evaluate(data, metrics=[...])."
        )
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)


def score_name(name: str, problem_type: str) -> str:
    """What a score (greater is better) is called: the metric's name, with ", negated" where it is that."""
    spec = resolve_metric(name, problem_type)
    return spec.name if spec.greater_is_better else f"{spec.name}, negated"


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
    check_metric_name(chosen)
    spec = METRICS[chosen]
    if problem_type not in spec.problem_types:
        fitting = ", ".join(sorted(n for n, s in METRICS.items() if problem_type in s.problem_types))
        raise ConfigError(f"The metric {chosen!r} is not for {problem_type} problems. Use one of: {fitting}.")
    return spec


def user_metric(function: UserMetric) -> MetricSpec:
    """A metric from a user's function, averaged over pictures without NaN; higher is taken to be better.

    Its name is the function's ``__name__`` (the class's, for an object without one). The function
    gets copies, so that nothing it does to them is seen elsewhere.

    Raises
    ------
    ConfigError
        If a metric of that name is registered, or (during the evaluation) if it returns no number.
    """
    name = str(getattr(function, "__name__", type(function).__name__))
    if name in METRICS:
        raise ConfigError(f"The function {name!r} has the name of a built-in metric. Rename the function.")

    def measure(picture: Picture) -> float:
        value = function(picture.truth.copy(), picture.prediction.astype(np.int64))
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The metric {name!r} must return a number (NaN leaves the picture out), got {value!r}."
            ) from error

    return _measured(name, measure)


def resolve_metrics(
    names: str | UserMetric | Iterable[str | UserMetric] | None, problem_type: str
) -> tuple[MetricSpec, ...]:
    """Return several metrics: one name or function, many, or None for the problem type's default report.

    Raises ConfigError as :func:`resolve_metric` and :func:`user_metric`, and if two have one name but
    are not the same.
    """
    if problem_type not in DEFAULT_METRICS:
        raise unknown_name("problem_type", problem_type, DEFAULT_METRICS)
    if names is None:
        names = DEFAULT_METRICS[problem_type]
    chosen = [names] if isinstance(names, str) or callable(names) else list(names)
    functions = {id(f) for f in chosen if callable(f)}
    specs = tuple(user_metric(f) if callable(f) else resolve_metric(f, problem_type) for f in chosen)
    if len({s.name for s in specs if s.name not in METRICS}) < len(functions):
        raise ConfigError("Two functions in metrics have the same name. Give each its own __name__.")
    return specs
