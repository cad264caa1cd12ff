"""Each metric against torchmetrics, scikit-learn or its formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as sk
from torchmetrics import functional as tm
from torchmetrics.segmentation import MeanIoU

from semseg_automl.core.errors import ConfigError
from semseg_automl.metrics import functional
from semseg_automl.metrics.confusion import IGNORE, ConfusionMatrix
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.probability import ThresholdCurve
from semseg_automl.metrics.registry import score_name


def pictures(classes: int, *, ignore: bool = True, seed: int = 0) -> list[tuple[NDArray, NDArray]]:
    """Pairs of (K, H, W) probabilities and (H, W) targets of several sizes, better than chance."""
    rng = np.random.default_rng(seed)
    pairs = []
    for size in ((20, 31), (7, 50), (33, 12)):
        target = rng.integers(0, classes, size)
        scores = rng.random((classes, *size)) + 0.5 * (np.arange(classes)[:, None, None] == target)
        if ignore:
            target[rng.random(size) < 0.15] = IGNORE
        pairs.append(((scores / scores.sum(0)).astype(np.float32), target))
    return pairs


def flat(pairs: list[tuple[NDArray, NDArray]]) -> tuple[NDArray, NDArray]:
    """Predicted and true classes of all valid pixels, (N,) each."""
    pred = np.concatenate([p.argmax(0)[t != IGNORE] for p, t in pairs])
    return pred, np.concatenate([t[t != IGNORE] for _, t in pairs])


def filled(pairs: list[tuple[NDArray, NDArray]], classes: int) -> NDArray:
    matrix = ConfusionMatrix(classes)
    for p, t in pairs:
        matrix.update(p.argmax(0), t)
    return matrix.matrix


@pytest.mark.parametrize("classes", [2, 5])
class TestAgainstLibraries:
    def test_confusion_matrix(self, classes: int) -> None:
        pairs = pictures(classes)
        pred, true = flat(pairs)
        assert np.array_equal(filled(pairs, classes), sk.confusion_matrix(true, pred))

    def test_iou(self, classes: int) -> None:
        pairs = pictures(classes)
        matrix, (pred, true) = filled(pairs, classes), flat(pairs)
        expected = sk.jaccard_score(true, pred, average=None)
        assert functional.per_class_iou(matrix) == pytest.approx(expected)
        jaccard = tm.classification.multiclass_jaccard_index(
            torch.from_numpy(pred), torch.from_numpy(true), num_classes=classes
        )
        assert functional.mean_iou(matrix) == pytest.approx(jaccard.item(), rel=1e-6)

    def test_dice(self, classes: int) -> None:
        pairs = pictures(classes)
        matrix, (pred, true) = filled(pairs, classes), flat(pairs)
        assert functional.per_class_dice(matrix) == pytest.approx(sk.f1_score(true, pred, average=None))
        assert functional.mean_dice(matrix) == pytest.approx(sk.f1_score(true, pred, average="macro"))

    def test_precision_and_recall(self, classes: int) -> None:
        pairs = pictures(classes)
        matrix, (pred, true) = filled(pairs, classes), flat(pairs)
        expected = sk.precision_score(true, pred, average=None)
        assert functional.per_class_precision(matrix) == pytest.approx(expected)
        assert functional.per_class_recall(matrix) == pytest.approx(sk.recall_score(true, pred, average=None))

    def test_pixel_accuracy_and_balanced_error(self, classes: int) -> None:
        pairs = pictures(classes)
        matrix, (pred, true) = filled(pairs, classes), flat(pairs)
        assert functional.pixel_accuracy(matrix) == pytest.approx(sk.accuracy_score(true, pred))
        assert functional.ber(matrix) == pytest.approx(1 - sk.balanced_accuracy_score(true, pred))

    def test_mean_image_iou_is_torchmetrics_mean_iou(self, classes: int) -> None:
        pairs = [pictures(classes, ignore=False, seed=s)[0] for s in range(4)]  # of one size
        evaluator = Evaluator(classes, binary=False)
        theirs = MeanIoU(num_classes=classes, input_format="index")
        for p, t in pairs:
            evaluator.add(p, t)
        pred = torch.from_numpy(np.stack([p.argmax(0) for p, _ in pairs]))
        theirs.update(pred, torch.from_numpy(np.stack([t for _, t in pairs])))
        ours = evaluator.result(["mean_image_iou"])["mean_image_iou"]
        assert ours == pytest.approx(theirs.compute().item(), rel=1e-5)


def test_absent_classes_are_left_out_of_the_mean_as_in_torchmetrics() -> None:
    pred, true = np.array([[0, 0, 1, 3]]), np.array([[0, 1, 1, 0]])  # 2 and 4 nowhere, 3 only predicted
    matrix = ConfusionMatrix(5)
    matrix.update(pred, true)
    jaccard = tm.classification.multiclass_jaccard_index(
        torch.from_numpy(pred), torch.from_numpy(true), num_classes=5
    )
    assert functional.mean_iou(matrix.matrix) == pytest.approx(jaccard.item(), rel=1e-6)


def test_binary_metrics() -> None:
    pairs = pictures(2)
    evaluator = Evaluator(2, binary=True, threshold=0.4)
    for p, t in pairs:
        evaluator.add(p, t)
    prob = np.concatenate([p[1][t != IGNORE] for p, t in pairs])
    true = np.concatenate([t[t != IGNORE] for _, t in pairs])
    pred = prob >= 0.4
    assert evaluator.result() == pytest.approx(
        {
            "iou": sk.jaccard_score(true, pred),
            "dice": sk.f1_score(true, pred),
            "pixel_accuracy": sk.accuracy_score(true, pred),
            "ber": 1 - sk.balanced_accuracy_score(true, pred),
            "mae": float(np.abs(prob.astype(np.float64) - true).mean()),
        },
        rel=1e-6,
    )


def test_threshold_curve_is_exact_on_its_grid() -> None:
    curve, pairs = ThresholdCurve(), pictures(2)
    for p, t in pairs:
        curve.update(p[1], t)
    prob = np.concatenate([p[1][t != IGNORE] for p, t in pairs])
    true = np.concatenate([t[t != IGNORE] for _, t in pairs])
    grid = np.arange(257) / 256
    expected = np.array([sk.jaccard_score(true, prob >= g) for g in grid])
    assert [curve.iou(g) for g in grid] == pytest.approx(expected)
    threshold, value = curve.best_threshold()
    assert value == pytest.approx(expected[1:-1].max())
    assert sk.jaccard_score(true, prob >= threshold) == pytest.approx(value)
    scores = {"dice": sk.f1_score, "pixel_accuracy": sk.accuracy_score, "kappa": sk.cohen_kappa_score}
    for name, score in scores.items():
        best = max(score(true, prob >= g) for g in grid[1:-1])
        assert curve.best_threshold(name)[1] == pytest.approx(best)


def test_a_score_of_a_metric_whose_lowest_value_is_best_is_called_so() -> None:
    assert score_name("mae", "binary") == "mae, negated" and score_name("iou", "binary") == "iou"
    with pytest.raises(ConfigError):
        score_name("mae", "multiclass")
