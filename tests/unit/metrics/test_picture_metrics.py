"""Conventions of the metrics measured on each picture, of functions as metrics and of intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.metrics import bootstrap, functional, saliency
from semseg_automl.metrics.boundary import boundary_f, hausdorff_95
from semseg_automl.metrics.confusion import IGNORE
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.registry import METRICS, resolve_metric, resolve_metrics
from semseg_automl.metrics.skeleton import cl_dice, skeleton

Metric = Callable[..., float]
SALIENCY = (saliency.s_measure, saliency.e_measure, saliency.f_measure, saliency.weighted_f_measure)
MASKS = (boundary_f, hausdorff_95, cl_dice)
MEASURED = [name for name, spec in METRICS.items() if spec.measure]


def square(size: int = 32, start: int = 8, side: int = 12) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), dtype=bool)
    mask[start : start + side, start : start + side] = True
    return mask


@pytest.mark.parametrize("metric", SALIENCY)
class TestSaliency:
    def test_perfect(self, metric: Metric) -> None:
        truth = square()
        # mean E: the threshold 0 calls every pixel foreground, one of 256 is as wrong as can be
        best = (255 + 0.25) / 256 if metric is saliency.e_measure else 1.0
        assert metric(truth.astype(np.float32), truth.astype(int)) == pytest.approx(best)

    def test_ignored_pixels_do_not_matter(self, metric: Metric) -> None:
        rng = np.random.default_rng(0)
        target = square().astype(int)
        target[:4] = IGNORE
        p = rng.random(target.shape)
        other = p.copy()
        other[:4] = np.nan
        assert metric(p, target) == metric(other, target)

    def test_nothing_valid_is_nan(self, metric: Metric) -> None:
        with np.errstate(all="raise"):
            for size in ((4, 5), (0, 3)):
                assert math.isnan(metric(np.zeros(size), np.full(size, IGNORE)))

    def test_errors(self, metric: Metric) -> None:
        with pytest.raises(DataError, match="same size"):
            metric(np.zeros((2, 3)), np.zeros((2, 2), int))
        for bad in (np.nan, 1.5):
            with pytest.raises(DataError, match=r"0\.\.1"):
                metric(np.full((2, 2), bad), np.zeros((2, 2), int))


def test_an_ignored_margin_is_like_no_margin() -> None:
    """Exact for what counts pixels; the S-measure's quadrants and the weights keep their places too."""
    rng = np.random.default_rng(1)
    target, p = square(20, 6, 9).astype(int), rng.random((20, 20))
    wide_target = np.pad(target, 5, constant_values=IGNORE)
    wide = np.pad(p, 5, constant_values=0.7)
    for metric in SALIENCY:
        assert metric(wide, wide_target) == pytest.approx(metric(p, target), abs=1e-12), metric


@pytest.mark.parametrize("metric", MASKS)
class TestMasks:
    def test_perfect(self, metric: Metric) -> None:
        mask = square()
        value = metric(mask, mask, np.ones_like(mask))
        assert value == (0.0 if metric is hausdorff_95 else 1.0)

    def test_one_empty_is_the_worst_and_both_empty_is_nan(self, metric: Metric) -> None:
        mask, empty = square(), np.zeros((32, 32), bool)
        valid = np.ones_like(mask)
        worst = math.hypot(32, 32) if metric is hausdorff_95 else 0.0
        assert metric(mask, empty, valid) == metric(empty, mask, valid) == worst
        assert math.isnan(metric(empty, empty, valid))


class TestBoundaries:
    def test_a_border_next_to_ignored_pixels_is_unknown(self) -> None:
        truth, pred = square(), square(start=9)
        valid = np.ones_like(truth)
        valid[6:22, 6:22] = square(16, 2, 12)  # ignored all around the true square
        assert math.isnan(boundary_f(pred & valid, truth, valid))
        assert math.isnan(hausdorff_95(pred & valid, truth, valid))

    def test_the_picture_s_border_is_an_edge_for_hausdorff_alone(self) -> None:
        full = np.ones((10, 10), bool)
        assert math.isnan(boundary_f(full, full, full)) and hausdorff_95(full, full, full) == 0.0

    def test_splitting_a_truth_without_an_edge_is_wrong(self) -> None:
        full = np.ones((10, 10), bool)
        assert boundary_f(np.pad(full[:, :5], ((0, 0), (0, 5))), full, full) == 0.0

    def test_distance_in_pixels(self) -> None:
        left, right = np.zeros((2, 20, 30), bool)
        left[:, 3], right[:, 10] = True, True
        assert hausdorff_95(left, right, np.ones_like(left)) == 7.0


def test_a_skeleton_keeps_pieces_and_holes() -> None:
    mask = square(40, 3, 20)
    mask[10:14, 10:14] = False
    mask[30:32, 30:32] = True
    thin, eight = skeleton(mask), np.ones((3, 3))
    assert not (thin & ~mask).any() and thin.sum() < 80
    assert ndimage.label(thin, eight)[1] == ndimage.label(mask, eight)[1] == 2
    assert ndimage.label(~thin)[1] == ndimage.label(~mask)[1] == 2


class TestKappa:
    def test_chance_perfect_and_undefined(self) -> None:
        assert functional.kappa(np.array([[25, 25], [25, 25]])) == 0.0
        assert functional.kappa(np.array([[3, 0], [0, 9]])) == pytest.approx(1.0)
        assert math.isnan(functional.kappa(np.array([[7, 0], [0, 0]])))
        assert math.isnan(functional.kappa(np.zeros((3, 3), dtype=np.int64)))
        assert functional.kappa(np.array([[0, 7], [0, 0]])) == 0.0


def filled(names: object, n: int = 6, binary: bool = True) -> Evaluator:
    rng = np.random.default_rng(0)
    evaluator = Evaluator(2 if binary else 4, binary, metrics=names)  # type: ignore[arg-type]
    for i in range(n):
        target = square(start=6 + i).astype(int)
        target[:2] = IGNORE
        p = np.clip(target * 0.6 + rng.random(target.shape) * 0.5, 0, 1)
        evaluator.add(p if binary else np.stack([1 - p, p, p * 0, p * 0]), target)
    return evaluator


class TestEvaluator:
    def test_values_are_means_over_pictures(self) -> None:
        evaluator = filled(MEASURED)
        rows = evaluator.per_image(MEASURED)
        for name, value in evaluator.result(MEASURED).items():
            assert value == pytest.approx(np.mean([row[name] for row in rows])), name

    def test_pictures_with_nan_are_left_out(self) -> None:
        evaluator = filled(["boundary_f"], 2)
        before = evaluator.result("boundary_f")
        evaluator.add(np.zeros((8, 8)), np.zeros((8, 8), int))
        assert evaluator.result("boundary_f") == before
        assert math.isnan(evaluator.per_image("boundary_f")[2]["boundary_f"])

    def test_multiclass_is_the_mean_over_shown_classes(self) -> None:
        names = ["boundary_f", "hausdorff_95", "cl_dice", "kappa"]
        values = filled(names, binary=False).result(names)
        assert all(np.isfinite(v) for v in values.values())
        with pytest.raises(ConfigError, match="not for multiclass"):
            Evaluator(4, False, metrics=["s_measure"])

    def test_what_was_not_announced_is_refused_with_the_remedy(self) -> None:
        with pytest.raises(ConfigError, match=r"s_measure.*Evaluator\(\.\.\., metrics=\['s_measure'\]\)"):
            filled(None).result(["iou", "s_measure"])

    def test_the_default_report_measures_nothing(self) -> None:
        evaluator = filled(None)
        assert not evaluator._specs and evaluator.result()

    def test_class_indices_have_no_saliency(self) -> None:
        evaluator = Evaluator(2, True, metrics="s_measure")
        with pytest.raises(ConfigError, match="'s_measure' needs foreground probabilities"):
            evaluator.add(np.zeros((4, 4), np.uint8), np.zeros((4, 4), int))
        assert len(evaluator) == 0

    def test_merge_wants_the_same_metrics(self) -> None:
        with pytest.raises(ConfigError, match="different metrics"):
            filled("s_measure").merge(filled(None))

    def test_errors_count_downwards(self) -> None:
        assert METRICS["hausdorff_95"].score(3.0) == -3.0
        assert not METRICS["hausdorff_95"].greater_is_better


def share_of_foreground(truth: NDArray, prediction: NDArray) -> float:
    prediction[:] = 1  # a function may do what it likes to its copies
    return float((truth == 1).mean())


class TestFunctions:
    def test_a_function_is_a_metric_by_its_name(self) -> None:
        metrics = ["iou", share_of_foreground]
        evaluator = filled(metrics)
        assert list(evaluator.result(metrics)) == ["iou", "share_of_foreground"]
        assert evaluator.result(share_of_foreground) == {"share_of_foreground": 144 / 1024}
        assert evaluator.result("iou") == filled(None).result("iou")
        assert "share_of_foreground" in evaluator.per_image(metrics)[0]

    def test_objects_without_a_hash_or_name(self) -> None:
        class Accuracy:
            __hash__ = None  # type: ignore[assignment]

            def __call__(self, truth: NDArray, prediction: NDArray) -> float:
                return float((truth == prediction).mean())

        assert [s.name for s in resolve_metrics([Accuracy(), "iou"], "binary")] == ["Accuracy", "iou"]

    def test_errors(self) -> None:
        def iou(truth: NDArray, prediction: NDArray) -> float:
            return 0.0

        with pytest.raises(ConfigError, match="Rename the function"):
            resolve_metrics(iou, "binary")
        with pytest.raises(ConfigError, match="same name"):
            resolve_metrics([lambda t, p: 0.0, lambda t, p: 1.0], "binary")
        with pytest.raises(ConfigError, match="must return a number"):
            filled(lambda t, p: "good")
        with pytest.raises(ConfigError, match="eval_metric must be a name"):
            resolve_metric(share_of_foreground, "binary")  # type: ignore[arg-type]


class TestIntervals:
    NAMES = ("iou", "mae", "kappa", "mean_image_iou", "boundary_f", "s_measure")

    def test_values_lie_inside_and_draws_repeat(self) -> None:
        evaluator = filled(self.NAMES, 12)
        found = evaluator.intervals(self.NAMES)
        values = evaluator.result(self.NAMES)
        for name, row in found.items():
            assert row["value"] == values[name] and row["low"] <= row["value"] <= row["high"], name
        assert found == evaluator.intervals(self.NAMES) != evaluator.intervals(self.NAMES, seed=1)
        wider = evaluator.intervals(self.NAMES, level=0.99)
        assert all(wider[n]["low"] <= found[n]["low"] <= found[n]["high"] <= wider[n]["high"] for n in found)

    def test_each_draw_is_an_evaluation_of_the_drawn_pictures(self) -> None:
        evaluator = filled(self.NAMES, 4)
        singles = [filled(self.NAMES, 4) for _ in range(4)]
        drawn: dict[str, list[float]] = {n: [] for n in self.NAMES}
        for counts in bootstrap.draws(4, 20, 0):
            again = Evaluator(2, True, metrics=self.NAMES)
            for i in np.repeat(np.arange(4), counts):
                one = Evaluator(2, True, metrics=self.NAMES)
                one._images, one._errors = [singles[0]._images[i]], [singles[0]._errors[i]]
                one._measured = {n: [v[i]] for n, v in singles[0]._measured.items()}
                one.confusion.matrix += one._images[0]
                again.merge(one)
            for name, value in again.result(self.NAMES).items():
                drawn[name].append(value)
        for name, row in evaluator.intervals(self.NAMES, resamples=20).items():
            expected = np.quantile(drawn[name], [0.025, 0.975])
            assert [row["low"], row["high"]] == pytest.approx(expected, rel=1e-12), name

    def test_the_width_is_that_of_the_standard_error(self) -> None:
        """For a mean, 95 % is about 2 * 1.96 * std / sqrt(n): within a tenth."""
        values = np.random.default_rng(0).normal(size=200)
        means = np.array([bootstrap.weighted_mean(values, c) for c in bootstrap.draws(200, 2000, 0)])
        low, high = bootstrap.interval(means, 0.95)
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(200), rel=0.1)

    def test_one_picture_has_no_interval_and_nan_is_left_out(self) -> None:
        row = filled(None, 1).intervals("iou")["iou"]
        assert row["value"] > 0 and math.isnan(row["low"]) and math.isnan(row["high"])
        evaluator = filled(["boundary_f"], 3)
        evaluator.add(np.zeros((8, 8)), np.zeros((8, 8), int))
        assert np.isfinite(list(evaluator.intervals("boundary_f")["boundary_f"].values())).all()
        assert Evaluator(2, True).intervals("iou")["iou"]["low"] != 0

    @pytest.mark.parametrize("level", [0, 1, 95, True, "0.95", float("nan")])
    def test_level(self, level: object) -> None:
        with pytest.raises(ConfigError, match="confidence must lie between 0 and 1"):
            filled(None, 2).intervals("iou", level=level)  # type: ignore[arg-type]
