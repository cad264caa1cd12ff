"""Conventions of the metrics: absent classes, ties, empty input, NaN, errors (values: tests/oracles)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.metrics import functional
from semseg_automl.metrics.confusion import IGNORE, ConfusionMatrix, confusion
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.probability import ThresholdCurve
from semseg_automl.metrics.registry import DEFAULT_METRICS, METRICS, resolve_metric, resolve_metrics


class TestConfusion:
    def test_rows_are_truth_and_ignored_pixels_are_left_out(self) -> None:
        target = np.array([[0, 0, 1], [2, IGNORE, 2]])
        pred = np.array([[0, 1, 1], [0, 9, 2]])  # what is said about ignored pixels doesn't matter
        expected = [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
        assert confusion(pred, target, 3).tolist() == expected

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.bool_])
    def test_any_integer_type(self, dtype: type) -> None:
        pred = np.array([[0, 1]]).astype(dtype)
        assert confusion(pred, np.array([[1, 1]], dtype=np.int16), 2).tolist() == [[0, 0], [1, 1]]

    def test_many_classes_do_not_overflow_small_types(self) -> None:
        pred = np.array([[199]], dtype=np.uint8)
        assert confusion(pred, pred.astype(np.int16), 200)[199, 199] == 1

    def test_empty_and_all_ignored_are_zero(self) -> None:
        assert not confusion(np.zeros((0, 4), int), np.zeros((0, 4), int), 2).any()
        assert not confusion(np.zeros((2, 2), int), np.full((2, 2), IGNORE), 2).any()

    def test_errors(self) -> None:
        grid = np.zeros((2, 2), int)
        with pytest.raises(DataError, match="same size"):
            confusion(grid, grid[:1], 2)
        with pytest.raises(DataError, match="prediction holds class index"):
            confusion(grid + 2, grid, 2)
        with pytest.raises(DataError, match="target holds class index"):
            confusion(grid, grid - 2, 2)
        with pytest.raises(ConfigError, match="n_classes"):
            ConfusionMatrix(0)
        with pytest.raises(ConfigError, match="merge"):
            ConfusionMatrix(2).merge(ConfusionMatrix(3))

    def test_update_adds_and_merge_is_one_pass_over_both(self) -> None:
        rng = np.random.default_rng(0)
        pairs = [rng.integers(0, 3, (2, 5, 6)) for _ in range(4)]
        whole, left, right = ConfusionMatrix(3), ConfusionMatrix(3), ConfusionMatrix(3)
        for i, (pred, target) in enumerate(pairs):
            whole.update(pred, target)
            (left if i % 2 else right).update(pred, target)
        left.merge(right)
        assert np.array_equal(whole.matrix, left.matrix) and whole.matrix.sum() == 4 * 30


class TestFunctional:
    def test_absent_classes_are_nan_and_left_out_of_means(self) -> None:
        matrix = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
        assert np.isnan(functional.per_class_iou(matrix)).tolist() == [False, False, True]
        assert functional.mean_iou(matrix) == pytest.approx((3 / 4 + 4 / 5) / 2)
        assert functional.mean_dice(matrix) == pytest.approx((6 / 7 + 8 / 9) / 2)

    def test_a_class_only_predicted_counts_as_zero(self) -> None:
        matrix = np.array([[3, 1], [0, 0]])
        assert functional.mean_iou(matrix) == pytest.approx(3 / 8)
        assert functional.ber(matrix) == pytest.approx(1 / 4)  # recall knows only true classes

    def test_nothing_is_nan_without_a_warning(self) -> None:
        empty = np.zeros((2, 2), dtype=np.int64)
        with np.errstate(all="raise"):
            for compute in (
                functional.mean_iou,
                functional.mean_dice,
                functional.binary_iou,
                functional.binary_dice,
                functional.pixel_accuracy,
                functional.ber,
            ):
                assert math.isnan(compute(empty))


class TestThresholdCurve:
    def test_a_pixel_at_the_threshold_is_foreground(self) -> None:
        curve = ThresholdCurve()
        curve.update(np.array([[0.5, 0.499]], np.float32), np.array([[1, 0]]))
        assert curve.iou(0.5) == 1.0

    def test_certain_pixels_are_foreground_at_every_threshold(self) -> None:
        curve = ThresholdCurve()
        curve.update(np.ones((1, 2), np.float32), np.array([[1, 1]]))
        assert [curve.iou(t) for t in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]

    def test_ties_go_to_the_middle(self) -> None:
        curve = ThresholdCurve()
        curve.update(np.array([[0.01, 0.99]], np.float32), np.array([[0, 1]]))
        assert curve.best_threshold() == (0.5, 1.0)

    def test_without_foreground_or_pixels_it_stays_at_a_half(self) -> None:
        curve = ThresholdCurve()
        threshold, value = curve.best_threshold()
        assert threshold == 0.5 and math.isnan(value) and math.isnan(curve.mae())
        curve.update(np.array([[0.7, 0.1]], np.float32), np.array([[0, 0]]))
        assert curve.best_threshold() == (0.5, 0.0)

    def test_lowest_is_best_for_errors(self) -> None:
        curve = ThresholdCurve()
        curve.update(np.array([[0.1, 0.3, 0.2, 0.25]], np.float32), np.array([[0, 1, 0, 1]]))
        threshold, value = curve.best_threshold("ber")
        assert 0.2 < threshold <= 0.25 and value == 0.0

    def test_a_metric_undefined_at_every_threshold_stays_at_a_half(self) -> None:
        curve = ThresholdCurve()
        curve.update(np.ones((2, 2), np.float32), np.ones((2, 2), int))
        threshold, value = curve.best_threshold("kappa")
        assert threshold == 0.5 and math.isnan(value)

    def test_rounding_is_forgiven_and_errors_are_not(self) -> None:
        curve = ThresholdCurve()
        curve.update(np.array([[1.00001, -0.00001]], np.float32), np.array([[1, 0]]))
        assert curve.mae() == 0.0
        for bad in (np.nan, 1.2, -0.2):
            with pytest.raises(DataError, match=r"0\.\.1"):
                curve.update(np.array([[0.5, bad]], np.float32), np.array([[1, 0]]))
        curve.update(np.array([[np.nan]], np.float32), np.array([[IGNORE]]))  # never looked at
        assert curve.counts.sum() == 2

    def test_arguments(self) -> None:
        curve = ThresholdCurve()
        with pytest.raises(ConfigError, match="Did you mean 'iou'"):
            curve.best_threshold("ious")
        with pytest.raises(ConfigError, match="threshold"):
            curve.iou(1.5)
        with pytest.raises(ConfigError, match="bins"):
            ThresholdCurve(1)
        with pytest.raises(ConfigError, match="merge"):
            curve.merge(ThresholdCurve(16))
        with pytest.raises(DataError, match="same size"):
            curve.update(np.zeros((2, 2), np.float32), np.zeros((2, 3), int))


class TestEvaluator:
    def test_default_reports(self) -> None:
        target = np.array([[0, 1], [1, 1]])
        for binary in (True, False):
            evaluator = Evaluator(2, binary)
            evaluator.add(np.stack([1.0 - target, target]).astype(np.float32), target)
            assert tuple(evaluator.result()) == DEFAULT_METRICS[evaluator.problem_type]

    def test_forms_of_a_binary_prediction_agree(self) -> None:
        rng = np.random.default_rng(0)
        p, target = rng.random((9, 11), dtype=np.float32), rng.integers(-1, 2, (9, 11))
        forms = [np.stack([1 - p, p]), p, (p >= 0.3).astype(np.uint8), p >= 0.3]
        results = []
        for form in forms:
            evaluator = Evaluator(2, True, threshold=0.3)
            evaluator.add(form, target)
            results.append(evaluator.result(["iou", "dice", "pixel_accuracy", "ber"]))
        assert all(r == results[0] for r in results)

    def test_ties_go_to_the_lower_class(self) -> None:
        evaluator = Evaluator(3, False)
        evaluator.add(np.full((3, 2, 2), 1 / 3, np.float32), np.zeros((2, 2), int))
        assert evaluator.result(["pixel_accuracy"]) == {"pixel_accuracy": 1.0}

    def test_mae_needs_probabilities(self) -> None:
        evaluator = Evaluator(2, True)
        evaluator.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), int))
        with pytest.raises(ConfigError, match="probabilities"):
            evaluator.result()

    def test_merge_is_one_pass_over_both(self) -> None:
        rng = np.random.default_rng(0)
        names = list(METRICS)
        whole, left, right = (Evaluator(2, True, metrics=names) for _ in range(3))
        for i in range(4):
            p, target = rng.random((2, 5, 6), dtype=np.float32), rng.integers(0, 2, (5, 6))
            p /= p.sum(0)
            whole.add(p, target)
            (left if i < 2 else right).add(p, target)
        left.merge(right)
        assert left.result(names) == pytest.approx(whole.result(names))
        assert left.per_image() == whole.per_image() and len(left) == 4
        with pytest.raises(ConfigError, match="merge"):
            left.merge(Evaluator(2, True, threshold=0.4))

    def test_rows_per_class_and_picture(self) -> None:
        evaluator = Evaluator(3, False)
        evaluator.add(np.array([[0, 1]]), np.array([[0, 0]]))
        evaluator.add(np.array([[1, 1]]), np.array([[1, IGNORE]]))
        rows = evaluator.per_class()
        assert [r["class"] for r in rows] == [0, 1, 2]
        assert rows[0]["iou"] == 0.5 and rows[0]["pixels"] == 2 and rows[0]["predicted_pixels"] == 1
        assert math.isnan(rows[2]["iou"]) and rows[2]["pixels"] == 0
        images = evaluator.per_image(["mean_iou", "pixel_accuracy"])
        assert images == [{"mean_iou": 0.25, "pixel_accuracy": 0.5}, {"mean_iou": 1.0, "pixel_accuracy": 1.0}]

    def test_mae_per_picture_is_that_pictures(self) -> None:
        evaluator = Evaluator(2, True)
        evaluator.add(np.full((2, 2), 0.25), np.zeros((2, 2), int))
        evaluator.add(np.full((1, 2), 0.75), np.full((1, 2), IGNORE))
        evaluator.add(np.full((1, 2), 0.75), np.ones((1, 2), int))
        values = [row["mae"] for row in evaluator.per_image(["mae"])]
        assert values[0] == values[2] == 0.25 and math.isnan(values[1])
        assert evaluator.result(["mae"]) == {"mae": 0.25}

    def test_errors(self) -> None:
        with pytest.raises(ConfigError, match="n_classes=2"):
            Evaluator(3, True)
        with pytest.raises(ConfigError, match="threshold"):
            Evaluator(2, True, threshold=2)
        with pytest.raises(DataError, match="shape"):
            Evaluator(3, False).add(np.zeros((2, 4, 4), np.float32), np.zeros((4, 4), int))
        with pytest.raises(DataError, match="NaN"):
            Evaluator(2, False).add(np.full((2, 4, 4), np.nan, np.float32), np.zeros((4, 4), int))

    def test_a_refused_picture_leaves_no_trace(self) -> None:
        evaluator = Evaluator(2, True)
        with pytest.raises(DataError):
            evaluator.add(np.full((4, 4), np.nan, np.float32), np.zeros((4, 4), int))
        assert len(evaluator) == 0 and not evaluator.confusion.matrix.any()


class TestRegistry:
    def test_defaults(self) -> None:
        assert resolve_metric(None, "binary").name == "iou"
        assert resolve_metric(None, "multiclass").name == "mean_iou"
        assert [s.name for s in resolve_metrics("dice", "binary")] == ["dice"]

    def test_signs(self) -> None:
        assert METRICS["iou"].score(0.3) == 0.3
        assert METRICS["mae"].score(0.3) == -0.3

    def test_errors_name_the_remedy(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'mean_iou'"):
            resolve_metric("mean_iuo", "binary")
        with pytest.raises(ConfigError, match=r"not for multiclass problems\. Use one of: .*mean_iou"):
            resolve_metric("iou", "multiclass")
        with pytest.raises(ConfigError, match="problem_type"):
            resolve_metrics(None, "regression")
