"""Scoring a segmenter on validation pictures, at the pictures' own size."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from semseg_automl.data.dataset import SegmentationDataset
from semseg_automl.data.preprocess import Geometry
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.probability import CURVE_METRICS
from semseg_automl.metrics.registry import resolve_metric
from semseg_automl.models.postprocess import logits_to_original, mirror_padded, probabilities
from semseg_automl.models.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Outcome of one pass: ``score`` is signed so that greater is better; ``complete`` is False
    where the clock cut it short. ``per_image``: the metric of each picture alone, in the data set's
    order (binary metrics of masks at a threshold of 0.5)."""

    score: float
    threshold: float
    metrics: dict[str, float]
    pictures: int
    seconds: float
    complete: bool
    never_predicted: tuple[int, ...]
    per_image: tuple[float, ...] = ()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The autocast context that belongs to one of Lightning's precision names."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextlib.contextmanager
def eval_mode(segmenter: Segmenter) -> Iterator[None]:
    """Evaluation mode without gradients; the training flag is restored."""
    training = segmenter.training
    segmenter.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        segmenter.train(training)


def validate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    eval_metric: str,
    precision: str = "32-true",
    mirror: bool = False,
    out_of_time: Callable[[], bool] = lambda: False,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Validation:
    """Score ``segmenter`` on every picture of ``dataset``.

    For binary problems the decision threshold that maximises the metric is chosen from the same pass, and
    all metrics of whole tables are those of that threshold: for metrics that need none (MAE, S-measure)
    the threshold of the best IoU, for those of single masks (boundary F, functions of one's own) 0.5, which
    they were measured at. With ``mirror`` each picture's
    probabilities are averaged with those of the mirrored picture, as prediction with ``tta`` does.
    ``out_of_time`` is asked after each picture; at least one picture is always scored. ``forward``
    computes what the segmenter does (a replay of it).
    """
    started = time.perf_counter()
    label_map = dataset.label_map
    binary = label_map.problem_type == "binary"
    evaluator = Evaluator(label_map.n_classes, binary, metrics=eval_metric)
    device = next(segmenter.parameters()).device
    seen = 0
    with eval_mode(segmenter):
        for i in range(len(dataset)):
            image, target, geometry = dataset.full_size(i)
            with autocast(device, precision):
                found = _probabilities(forward or segmenter, image.to(device), geometry, mirror)
            probability = found.cpu().numpy()
            if not np.isfinite(probability).all():
                raise FloatingPointError("the network's output is not finite")
            evaluator.add(probability, target)
            seen += 1
            if out_of_time():
                break
    return _summary(evaluator, eval_metric, seen, len(dataset), time.perf_counter() - started)


def _probabilities(
    segmenter: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, geometry: Geometry, mirror: bool
) -> torch.Tensor:
    """(K, H, W) at the picture's own size, of (3, H', W'); K = 2 for one logit."""
    images = torch.stack([image, mirror_padded(image, geometry)] if mirror else [image])
    logits = segmenter(images).float()  # (1 or 2, K, h, w)
    found = [probabilities(logits_to_original(x, geometry)) for x in logits]
    return (found[0] + found[1].flip(-1)) / 2 if mirror else found[0]


def _summary(evaluator: Evaluator, eval_metric: str, seen: int, total: int, seconds: float) -> Validation:
    threshold = 0.5
    spec = resolve_metric(eval_metric, evaluator.problem_type)
    metrics = evaluator.result()
    value = metrics.get(spec.name, float("nan"))
    matrix = evaluator.confusion.matrix
    if evaluator.curve is not None and (spec.name in CURVE_METRICS or spec.needs_probability):
        criterion = spec.name if spec.name in CURVE_METRICS else "iou"
        threshold, best = evaluator.curve.best_threshold(criterion)
        matrix = evaluator.curve.matrix(threshold)
        decided = {name: compute(matrix) for name, (compute, _) in CURVE_METRICS.items() if name in metrics}
        metrics = metrics | decided | {criterion: best}
        value = metrics.get(spec.name, value)
    if spec.name not in metrics:
        value = evaluator.result(spec.name)[spec.name]
    missed = tuple(int(k) for k in np.flatnonzero((matrix.sum(1) > 0) & (matrix.sum(0) == 0)))
    return Validation(
        score=spec.score(value),
        threshold=threshold,
        metrics={**metrics, spec.name: value},
        pictures=seen,
        seconds=seconds,
        complete=seen == total,
        never_predicted=missed,
        per_image=tuple(row[spec.name] for row in evaluator.per_image(spec.name)),
    )
