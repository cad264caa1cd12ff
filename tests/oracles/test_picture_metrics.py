"""Metrics of single pictures against pysodmetrics, scikit-image (both stored), MONAI, and kappa."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import cohen_kappa_score
from torchmetrics.functional.classification import multiclass_cohen_kappa

from semseg_automl.metrics import boundary, functional, saliency
from semseg_automl.metrics.confusion import confusion
from semseg_automl.metrics.probability import ThresholdCurve
from semseg_automl.metrics.skeleton import cl_dice, skeleton
from tests.oracles.make_saliency_values import VALUES, cases

EXPECTED = json.loads(VALUES.read_text(encoding="utf-8"))["values"]
CASES = cases()
NOTHING_TO_FIND = {"truth_empty", "both_empty"}


def test_the_stored_values_are_of_these_cases() -> None:
    assert EXPECTED.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
class TestAgainstPysodmetrics:
    """Absolute tolerance 1e-12 (found: at most 5e-16)."""

    def test_s_measure(self, name: str) -> None:
        p, truth = CASES[name]
        ours = saliency.s_measure(p, truth.astype(int))
        assert ours == pytest.approx(EXPECTED[name]["s_measure"], abs=1e-12)

    def test_e_measure_divided_by_n(self, name: str) -> None:
        p, truth = CASES[name]
        n = truth.size  # they divide by n - 1
        expected = EXPECTED[name]["e_measure"] * (n - 1) / n
        assert saliency.e_measure(p, truth.astype(int)) == pytest.approx(expected, abs=1e-12)

    def test_weighted_f_measure(self, name: str) -> None:
        p, truth = CASES[name]
        ours = saliency.weighted_f_measure(p, truth.astype(int))
        if name == "both_empty":  # nothing to find and nothing found: they say 0
            assert math.isnan(ours)
        else:
            assert ours == pytest.approx(EXPECTED[name]["weighted_f_measure"], abs=1e-12)

    def test_f_measure(self, name: str) -> None:
        p, truth = CASES[name]
        ours = saliency.f_measure(p, truth.astype(int))
        if name == "both_empty":
            assert math.isnan(ours)
        elif name == "all_zero":  # to them every pixel is foreground at the threshold 0
            assert ours == 0
        else:
            assert ours == pytest.approx(EXPECTED[name]["f_measure"], abs=1e-12)

    def test_mae(self, name: str) -> None:
        p, truth = CASES[name]
        curve = ThresholdCurve()
        curve.update(p, truth.astype(int))
        assert curve.mae() == pytest.approx(EXPECTED[name]["mae"], abs=1e-12)

    def test_skeleton_is_that_of_thin(self, name: str) -> None:
        thin = skeleton(CASES[name][1])
        assert np.flatnonzero(thin).tolist() == EXPECTED[name]["thin"]

    def test_cl_dice_is_near_that_of_skeletonize(self, name: str) -> None:
        """The share of a skeleton inside a mask differs by less than 0.01."""
        p, truth = CASES[name]
        theirs = np.zeros(truth.size, dtype=bool)
        theirs[EXPECTED[name]["skeletonize"]] = True
        theirs = theirs.reshape(truth.shape)
        if theirs.any():
            inside = p >= 0.5
            assert inside[skeleton(truth)].mean() == pytest.approx(inside[theirs].mean(), abs=0.01)


def masks(seed: int, size: tuple[int, int] = (48, 61)) -> tuple[NDArray, NDArray]:
    """Two blobby masks that resemble one another and touch the picture's border now and then."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(size), 4)
    other = noise + 0.3 * ndimage.gaussian_filter(rng.standard_normal(size), 4)
    return noise > noise.mean(), other > noise.mean()


def one_hot(mask: NDArray) -> torch.Tensor:
    return torch.from_numpy(np.stack([~mask, mask]).astype(np.float32))[None]  # (H, W) -> (1, 2, H, W)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")
@pytest.mark.parametrize("seed", range(8))
class TestAgainstMonai:
    """MONAI computes in float32: relative tolerance 1e-5."""

    def test_hausdorff_95(self, seed: int) -> None:
        pred, truth = masks(seed)
        theirs = compute_hausdorff_distance(one_hot(pred), one_hot(truth), percentile=95).item()
        ours = boundary.hausdorff_95(pred, truth, np.ones_like(truth))
        assert ours == pytest.approx(theirs, rel=1e-5)

    def test_surface_distances(self, seed: int) -> None:
        pred, truth = masks(seed)
        valid = np.ones_like(truth)
        edges = [boundary.edge(m, valid, frame=True) for m in (pred, truth)]
        ours = boundary.surface_distances(edges[0], edges[1])
        _, theirs, _ = get_edge_surface_distance(
            torch.from_numpy(pred), torch.from_numpy(truth), symmetric=True
        )
        for mine, other in zip(ours, theirs, strict=True):
            assert np.sort(mine) == pytest.approx(np.sort(other.numpy()), rel=1e-5)

    def test_edges_within_the_tolerance(self, seed: int) -> None:
        """MONAI's surface Dice pools what precision and recall of the boundary F count apart."""
        pred, truth = (np.pad(m, 3) for m in masks(seed))  # away from the border, which MONAI counts
        valid, tolerance = np.ones_like(truth), 1.0  # ceil(0.0075 * 86 px)
        there, back = boundary.surface_distances(
            *(boundary.edge(m, valid, frame=False) for m in (pred, truth))
        )
        theirs = compute_surface_dice(one_hot(pred), one_hot(truth), [tolerance]).item()
        near = int((there <= tolerance).sum()), int((back <= tolerance).sum())
        assert sum(near) / (there.size + back.size) == pytest.approx(theirs, rel=1e-5)
        precision, recall = near[0] / there.size, near[1] / back.size
        expected = 2 * precision * recall / (precision + recall)
        assert boundary.boundary_f(pred, truth, valid) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_boundary_f_by_dilation(seed: int) -> None:
    """DAVIS's way: the other edge is widened with a disk of the tolerance's radius; equal to 1e-12."""
    pred, truth = masks(seed, (240, 310))
    radius = math.ceil(0.0075 * math.hypot(240, 310))
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = rows**2 + columns**2 <= radius**2
    inner = [m & ndimage.binary_dilation(~m) for m in (pred, truth)]  # a cross; no edge at the border
    wide = [ndimage.binary_dilation(m, disk) for m in inner]
    precision, recall = wide[1][inner[0]].mean(), wide[0][inner[1]].mean()
    expected = 2 * precision * recall / (precision + recall)
    ours = boundary.boundary_f(pred, truth, np.ones_like(truth))
    assert radius == 3 and ours == pytest.approx(expected, rel=1e-12)


def test_cl_dice_written_out() -> None:
    """A line of 20 pixels, 12 of which are found, and a false line of 4: recall 12/20, precision 12/16."""
    truth, pred = np.zeros((2, 9, 30), dtype=bool)
    truth[4, 5:25] = True
    pred[4, 5:17] = pred[7, 20:24] = True
    expected = 2 * (12 / 20) * (12 / 16) / (12 / 20 + 12 / 16)
    assert cl_dice(pred, truth, np.ones_like(truth)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_kappa(classes: int) -> None:
    """scikit-learn to 1e-12, torchmetrics (float32) to 1e-5."""
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, (40, 50))
    pred = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes, truth.shape))
    ours = functional.kappa(confusion(pred, truth, classes))
    assert ours == pytest.approx(cohen_kappa_score(truth.ravel(), pred.ravel()), rel=1e-12)
    theirs = multiclass_cohen_kappa(torch.from_numpy(pred), torch.from_numpy(truth), num_classes=classes)
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
