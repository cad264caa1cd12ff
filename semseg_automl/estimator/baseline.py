"""The majority class as a model: what a prediction of the commonest class everywhere would score."""

from __future__ import annotations

import numpy as np

from semseg_automl.core.results import ModelRow
from semseg_automl.data.frame import Samples
from semseg_automl.data.labels import LabelMap, LabelScan, class_counts, read_mask
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.registry import resolve_metric

NAME = "majority_class"


def majority_class(scan: LabelScan, label_map: LabelMap) -> int:
    """Index of the class with the most pixels (the lower one of equals)."""
    return int(np.argmax(class_counts(scan, label_map).sum(0)))


def majority_score(samples: Samples, label_map: LabelMap, constant: int, metric: str) -> float:
    """The metric (greater is better) of predicting class ``constant`` everywhere."""
    binary = label_map.problem_type == "binary"
    evaluator = Evaluator(label_map.n_classes, binary, metrics=metric)
    for mask in samples.masks or ():
        target = read_mask(mask, label_map)
        probability = np.zeros((label_map.n_classes, *target.shape), np.float32)
        probability[constant] = 1.0
        evaluator.add(probability, target)
    spec = resolve_metric(metric, label_map.problem_type)
    return spec.score(evaluator.result(spec.name)[spec.name])


def majority_row(val: Samples, label_map: LabelMap, scan: LabelScan, metric: str) -> ModelRow:
    """The leaderboard's baseline row."""
    constant = majority_class(scan, label_map)
    return ModelRow(
        model=NAME,
        score_val=majority_score(val, label_map, constant, metric),
        state="baseline",
        reason=f"class {label_map.names[constant]} everywhere",
    )
