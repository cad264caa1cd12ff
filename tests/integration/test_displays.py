"""Displays of fitted models: what they collect."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.estimator._errors import NotFittedError
from semseg_automl.estimator.displays import (
    SEARCH_VIEWS,
    ConfusionMatrixDisplay,
    ErrorGalleryDisplay,
    LearningCurveDisplay,
    MaskDisplay,
    SearchDisplay,
)
from tests.integration.quick import tiny


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def test_worst_pictures_first(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    table = textures.set_index(pd.Index([f"row{i}" for i in range(12)]))
    display = ErrorGalleryDisplay.from_estimator(multiclass, table, n=3)
    scores = multiclass.evaluate(table, ["mean_iou"], per_image=True)["mean_iou"].sort_values()
    assert list(display.titles) == [f"{k}\nmean_iou {v:.3f}" for k, v in scores[:3].items()]
    worst = table.loc[[scores.index[0]]]
    np.testing.assert_array_equal(
        display.predictions[0], multiclass._model.label_map.encode(multiclass.predict(worst).iloc[0])
    )
    by_distance = ErrorGalleryDisplay.collect(multiclass, table, n=1, metric="hausdorff_95")
    distances = multiclass.evaluate(table, ["hausdorff_95"], per_image=True)["hausdorff_95"]
    assert by_distance.titles[0].startswith(f"{distances.idxmax()}\n")  # an error: the largest is the worst


def test_predictions_with_and_without_masks(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> None:
    display = multiclass.plot_predictions(textures, n=3)
    assert isinstance(display, MaskDisplay) and list(display.titles) == ["0", "6", "11"]
    assert len(display.ax_.child_axes) == 9
    table = tmp_path_factory.mktemp("tables") / "test.csv"
    textures[["image"]].to_csv(table, index=False)
    assert MaskDisplay.collect(multiclass, table, n=1).truths == [None]
    assert MaskDisplay.collect(multiclass, list(textures["image"]), n=1).truths == [None]


def test_confusion_is_the_evaluations(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    display = multiclass.plot_confusion(textures, normalize=None)
    assert isinstance(display, ConfusionMatrixDisplay)
    classes = multiclass.evaluate(textures, per_class=True)
    np.testing.assert_array_equal(display.matrix.sum(1), classes["pixels"])
    np.testing.assert_allclose(np.diag(display.shares()) / display.matrix.sum(1), classes["recall"])
    apart = ConfusionMatrixDisplay.collect(multiclass, textures[["image"]], textures["label"])
    np.testing.assert_array_equal(apart.matrix, display.matrix)


def test_search_and_curve_of_a_fit(multiclass: SemanticSegmentor) -> None:
    search = multiclass.plot_search()
    assert isinstance(search, SearchDisplay) and [r.model for r in search.rows] == [
        "default",
        "majority_class",
    ]
    for view in SEARCH_VIEWS:
        assert isinstance(multiclass.plot_search(view), SEARCH_VIEWS[view])
    with pytest.raises(ConfigError, match="Did you mean 'rungs'"):
        multiclass.plot_search("rung")
    curve = LearningCurveDisplay.from_estimator(multiclass)
    assert curve.kept == multiclass.best_score_ and curve.kept in curve.scores
    assert curve.metric == "mean_iou on validation"


def test_what_displays_refuse(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="masks: pass a DataFrame"):
        ErrorGalleryDisplay.collect(multiclass, list(textures["image"]))
    for kind in (MaskDisplay, ErrorGalleryDisplay, ConfusionMatrixDisplay):
        with pytest.raises(NotFittedError):
            kind.from_estimator(tiny(), textures)
    for kind in (SearchDisplay, LearningCurveDisplay):
        with pytest.raises(NotFittedError):
            kind.from_estimator(tiny())
