"""Displays: what is drawn is what was counted; pictures keep their proportions, colours their meaning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.results import ModelRow
from semseg_automl.data.label_map import IGNORE
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.estimator._curves import BLUE
from semseg_automl.estimator._drawing import row_heights, thumbnail, thumbnail_mask
from semseg_automl.estimator._masks_shown import FALSE_ALARM, MISSED
from semseg_automl.estimator.colours import IGNORED, PALETTE, class_colours, colour_mask
from semseg_automl.estimator.displays import (
    ConfusionMatrixDisplay,
    ErrorGalleryDisplay,
    LearningCurveDisplay,
    MaskDisplay,
    SearchDisplay,
    SearchParametersDisplay,
    SearchRungsDisplay,
    SearchTimeDisplay,
)

TRUTH = np.array([[0, 0, 1], [1, IGNORE, 0]])
PREDICTION = np.array([[0, 1, 0], [1, 1, 0]])


def gallery(kind: type[MaskDisplay] = ErrorGalleryDisplay) -> MaskDisplay:
    masks = [np.array([[0, 1, 1], [0, 0, 255]], np.uint8), np.array([[7, 0, 0]], np.uint8)]
    binary = infer_label_map(scan_masks([(masks[0] == 1).astype(np.uint8)]))
    image = np.full((2, 3, 3), 60, np.uint8)
    return kind(
        images=[image, image],
        truths=[TRUTH, TRUTH],
        predictions=[PREDICTION, TRUTH],
        label_map=binary,
        titles=["a", "b"],
    )


def rows() -> list[ModelRow]:
    scores = [("default", 0.5, "finished"), ("trial_1", 0.4, "pruned"), ("trial_2", math.nan, "failed")]
    scores += [("trial_3", 0.7, "time"), ("majority_class", 0.2, "baseline")]
    return [ModelRow(model=m, score_val=s, state=state) for m, s, state in scores]


VIEWS: tuple[Any, ...] = (SearchParametersDisplay, SearchRungsDisplay, SearchTimeDisplay)


def table() -> list[dict[str, Any]]:
    """A search of two processes: three models, one of which went on, and one that was lost and repeated."""
    trials = [
        ("default", 0, None, None, 0.3, 0.0, 10.0, "main", {"rank": 8, "adapter": "lora"}),
        ("trial_1", 0, None, None, None, 1.0, None, "worker_1", {"rank": 2, "adapter": "ssf"}),
        ("trial_1", 0, None, 1, 0.5, 5.0, 15.0, "main", {"rank": 2, "adapter": "ssf"}),
        ("trial_3", 0, None, None, 0.2, 6.0, 16.0, "worker_2", {"rank": 64, "adapter": "lora"}),
        ("trial_1", 1, 2, None, 0.6, 16.0, 40.0, "main", {"rank": 2, "adapter": "ssf"}),
    ]
    names = ("model", "rung", "continues", "requeue_of", "score", "started", "ended", "worker", "params")
    return [{"trial": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(trials)]


def drawn(kind: Any) -> Any:
    return kind(table=table(), metric="iou").figure().axes[0]


def test_parallel_coordinates() -> None:
    ax = drawn(SearchParametersDisplay)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["rank", "adapter", "iou"]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3}
    assert len([line for line in ax.lines if len(line.get_xdata()) == 3]) == 3
    np.testing.assert_allclose(lines["trial_1"], [0.0, 1.0, 1.0])  # least rank, second adapter, best score
    others = sorted(list(line.get_ydata()) for line in ax.lines if line.get_color() == BLUE)
    np.testing.assert_allclose(others, [[np.log(4) / np.log(32), 0.0, 0.25], [1.0, 0.0, 0.0]])


def test_how_far_models_came() -> None:
    ax = drawn(SearchRungsDisplay)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1\n3 models", "2\n1 models"]
    assert sorted(len(line.get_xdata()) for line in ax.lines) == [1, 1, 2]


def test_who_trained_what_when() -> None:
    ax = drawn(SearchTimeDisplay)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["main", "worker_1", "worker_2"]
    assert [round(bar.get_width(), 3) for bar in ax.patches] == [10.0, 39.0, 10.0, 10.0, 24.0]
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"new", "went on", "failed or lost"}


def test_no_search_is_said() -> None:
    for kind in VIEWS:
        texts = kind(table=[], metric="iou").figure().axes[0].texts
        assert [t.get_text() for t in texts] == ["no search was made"]


def test_colours_are_distinct_beyond_the_palette() -> None:
    colours = class_colours(2 * len(PALETTE) - 1)
    assert len({tuple(c) for c in colours}) == len(colours)
    assert (class_colours(4) == PALETTE[:4]).all()


def test_ignored_pixels_are_grey() -> None:
    shown = colour_mask(TRUTH, 2)
    assert tuple(shown[1, 1]) == IGNORED and tuple(shown[0, 2]) == tuple(PALETTE[1])


@pytest.mark.parametrize("given_axes", [True, False])
@pytest.mark.parametrize(
    "display",
    [
        gallery(),
        gallery(MaskDisplay),
        ConfusionMatrixDisplay(matrix=np.array([[3, 1], [0, 2]]), names=["a", "b"]),
        SearchDisplay(rows=rows(), metric="iou"),
        LearningCurveDisplay(steps=[1, 2], scores=[0.1, 0.2], metric="iou", kept=0.2),
        *(kind(table=table(), metric="iou") for kind in VIEWS),
    ],
    ids=lambda d: type(d).__name__,
)
def test_plot_draws_into_the_users_axes_or_a_new_figure(display: MaskDisplay, given_axes: bool) -> None:
    _, ax = plt.subplots()
    before = plt.get_fignums()
    try:
        assert display.plot(ax if given_axes else None) is display
        assert (display.ax_ is ax) == given_axes and display.figure_ is display.ax_.figure
        assert display.ax_.has_data() or display.ax_.child_axes
        count = len(plt.get_fignums())
        display.figure()  # for files: leaves pyplot alone
        assert len(plt.get_fignums()) == count == len(before) + (not given_axes)
    finally:
        plt.close("all")


@pytest.mark.parametrize(("kind", "columns"), [(MaskDisplay, 3), (ErrorGalleryDisplay, 4)])
def test_a_gallery_has_a_picture_per_cell(kind: type[MaskDisplay], columns: int, tmp_path: Path) -> None:
    display = gallery(kind)
    cells = display.figure().axes[0].child_axes
    assert len(cells) == 2 * columns
    assert [cell.get_ylabel() for cell in cells[::columns]] == ["a", "b"]
    display.save(tmp_path / "a.png", dpi=50)
    assert Image.open(tmp_path / "a.png").width == pytest.approx(50 * display._size()[0], abs=1)
    unknown = MaskDisplay(
        images=display.images,
        truths=[None, None],
        predictions=display.predictions,
        label_map=display.label_map,
    )
    assert len(unknown.figure().axes[0].child_axes) == 4


def test_errors_have_the_colour_of_their_kind_and_ignored_pixels_none() -> None:
    errors = gallery().rows()[1][0][3]
    assert errors is not None
    assert tuple(errors[0, 1]) == FALSE_ALARM and tuple(errors[0, 2]) == MISSED
    assert {tuple(errors[y, x]) for y, x in ((0, 0), (1, 0), (1, 1), (1, 2))} == {(150, 150, 150)}


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("true", [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]),
        ("pred", [[1, 1 / 3, 0], [0, 2 / 3, 0], [0, 0, 0]]),
        ("all", [[0.5, 1 / 6, 0], [0, 1 / 3, 0], [0, 0, 0]]),
        (None, [[3, 1, 0], [0, 2, 0], [0, 0, 0]]),
    ],
)
def test_shares_of_the_confusion_matrix(normalize: str | None, expected: list[list[float]]) -> None:
    matrix = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    display = ConfusionMatrixDisplay(matrix=matrix, names=["a", "b", "absent"], normalize=normalize)
    np.testing.assert_allclose(display.shares(), expected)
    ax = display.figure().axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "absent"]
    np.testing.assert_allclose(ax.images[0].get_array(), expected)


def test_an_unknown_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'true'"):
        ConfusionMatrixDisplay(matrix=np.eye(2), names=["a", "b"], normalize="ture")


def test_many_classes_are_drawn_without_numbers() -> None:
    names = [str(k) for k in range(30)]
    assert not ConfusionMatrixDisplay(matrix=np.eye(30), names=names).figure().axes[0].texts


def test_the_search_is_drawn_in_the_order_of_training() -> None:
    ax = SearchDisplay(rows=rows(), metric="iou").figure().axes[0]
    best, baseline = ax.lines
    np.testing.assert_allclose(best.get_ydata(), [0.5, 0.5, 0.5, 0.7])
    assert baseline.get_ydata()[0] == 0.2
    points = {c.get_label(): c.get_offsets() for c in ax.collections}
    np.testing.assert_allclose(points["trained"], [[1, 0.5], [4, 0.7]])
    np.testing.assert_allclose(points["pruned"], [[2, 0.4]])
    assert points["failed"][0][0] == 3
    assert [t.get_text() for t in ax.texts] == ["trial_3 0.7000"]


def test_a_search_without_a_score_is_still_drawn() -> None:
    failed = [ModelRow(model="default", score_val=math.nan, state="failed")]
    assert not SearchDisplay(rows=failed, metric="iou").figure().axes[0].lines


def test_a_learning_curve_shows_every_validation_and_what_was_kept() -> None:
    ax = (
        LearningCurveDisplay(steps=[2, 4, 6], scores=[0.1, 0.3, 0.2], metric="iou", kept=0.3).figure().axes[0]
    )
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[2, 0.1], [4, 0.3], [6, 0.2]])
    assert ax.lines[1].get_ydata()[0] == 0.3 and ax.get_ylabel() == "iou"
    assert to_rgb(ax.lines[0].get_color()) != to_rgb(ax.lines[1].get_color())


def test_thumbnails_shrink_and_never_grow_or_mix_classes() -> None:
    picture = np.zeros((100, 50, 3), np.uint8)
    picture[::2] = 200
    small = thumbnail(picture, 50)
    assert small.shape == (50, 25, 3) and np.ptp(small) == 0 and small[0, 0, 0] == pytest.approx(100, abs=1)
    assert thumbnail(picture, 100) is picture
    mask = np.arange(5000).reshape(100, 50) // 2500 * 7
    small_mask = thumbnail_mask(mask, 20)
    assert small_mask.shape == (20, 10) and set(np.unique(small_mask)) == {0, 7}
    assert (small_mask[:10] == 0).all() and (small_mask[10:] == 7).all()
    assert row_heights([[None, picture], [picture[:20]]]) == [2.0, 0.4]
