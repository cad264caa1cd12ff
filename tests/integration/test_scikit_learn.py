"""scikit-learn's contract: parameters, clones, errors, cross-validation and searches on DataFrames."""

from __future__ import annotations

from pathlib import Path

import html5lib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from semseg_automl import SemanticSegmentor, SemsegError
from semseg_automl.core.errors import ConfigError
from semseg_automl.estimator.html import fitted_html
from tests.integration.quick import NO_SEARCH, SMALL, tiny

PARAMETERS = {
    "problem_type": "multiclass",
    "image": "a",
    "label": "b",
    "classes": {0: "sky", 5: "ground"},
    "ignore_index": None,
    "eval_metric": "dice",
    "backbone": "sam_tiny",
    "path": Path("somewhere"),
    "random_state": 3,
    "verbosity": 1,
}


def test_parameters_are_stored_untouched() -> None:
    seg = SemanticSegmentor(**PARAMETERS)
    assert seg.get_params() == PARAMETERS
    assert all(seg.get_params()[k] is v for k, v in PARAMETERS.items())
    assert SemanticSegmentor().set_params(**PARAMETERS).get_params() == PARAMETERS
    with pytest.raises(ValueError, match="nonsense"):
        seg.set_params(nonsense=1)


def test_clone_copies_parameters_and_nothing_learnt(multiclass: SemanticSegmentor) -> None:
    copy = clone(SemanticSegmentor(**PARAMETERS))
    assert copy.get_params() == PARAMETERS and copy.classes is not PARAMETERS["classes"]
    copy = clone(multiclass)
    assert copy.get_params() == multiclass.get_params()
    assert not [name for name in vars(copy) if name.endswith("_")]
    assert clone(copy).get_params() == copy.get_params()


def test_repr(multiclass: SemanticSegmentor) -> None:
    assert repr(SemanticSegmentor()) == "SemanticSegmentor()"
    assert repr(SemanticSegmentor("binary", random_state=2)) == (
        "SemanticSegmentor(problem_type='binary', random_state=2)"
    )
    assert "<div" in SemanticSegmentor()._repr_html_()


def test_a_notebook_shows_plan_scores_and_classes(multiclass: SemanticSegmentor) -> None:
    bundle = multiclass._repr_mimebundle_()
    ours = fitted_html(multiclass)
    assert bundle["text/plain"] == repr(multiclass) and bundle["text/html"].endswith(ours)
    assert multiclass._repr_html_().endswith(ours)
    text = "".join(html5lib.HTMLParser(strict=True).parseFragment(ours).itertext())
    assert f"mean_iou {multiclass.best_score_:.4f} on validation; 3 classes" in text
    for shown in (*multiclass.fit_summary(show=False)["plan"], *multiclass.classes_, "majority_class"):
        assert shown in text
    with sklearn.config_context(display="text"):
        assert not hasattr(multiclass, "_repr_html_")
        assert set(multiclass._repr_mimebundle_()) == {"text/plain"}


def test_a_notebook_shows_names_not_markup(textures: pd.DataFrame, tmp_path: Path) -> None:
    classes = ["<script>alert(1)</script>", "a & b", '"quoted"']
    seg = tiny(tmp_path / "<i>m", classes=classes).fit(textures, **NO_SEARCH)
    shown = seg._repr_html_()
    assert "<script>alert" not in shown and "<i>m" not in shown
    text = "".join(html5lib.parseFragment(shown).itertext())
    assert all(name in text for name in classes)


def test_a_pipeline_shows_its_steps(multiclass: SemanticSegmentor) -> None:
    assert "SemanticSegmentor" in make_pipeline(FunctionTransformer(), multiclass)._repr_html_()


def test_tags_and_scikit_learns_own_checks() -> None:
    """Most of its checks pass number arrays, which the tags rule out; what is left must pass."""
    tags = get_tags(SemanticSegmentor())
    assert tags.estimator_type is None  # a classifier's folds would be stratified by mask paths
    assert not tags.input_tags.two_d_array and tags.input_tags.string and not tags.target_tags.required
    assert tags.requires_fit
    found = check_estimator(SemanticSegmentor(backbone="sam_tiny"), on_skip=None)
    assert found and all(check["status"] == "passed" for check in found)


@pytest.mark.parametrize("call", ["predict", "predict_proba", "evaluate", "score", "leaderboard"])
def test_not_fitted(call: str, textures: pd.DataFrame) -> None:
    with pytest.raises(NotFittedError, match="fit") as caught:
        getattr(SemanticSegmentor(backbone="sam_tiny"), call)(textures)
    assert isinstance(caught.value, SemsegError)


def test_check_is_fitted(multiclass: SemanticSegmentor, tmp_path: Path) -> None:
    check_is_fitted(multiclass)
    seg = SemanticSegmentor()
    with pytest.raises(NotFittedError):
        check_is_fitted(seg)
    for method in (seg.save, seg.fit_summary):
        with pytest.raises(NotFittedError):
            method()


def test_wrong_arguments_cost_no_time(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Refused with a guess before a picture is read or a folder made."""
    cases = [
        ({"hyperparameters": {"lerning_rate": 1e-3}}, "Did you mean 'learning_rate'"),
        ({"presets": "best_qualty"}, "Did you mean 'best_quality'"),
        ({"engine": "locl"}, "Did you mean 'local'"),
        ({"time_limit": 0}, "time_limit"),
        ({"time_limit": "60"}, "time_limit"),
        ({"hyperparameter_tune_kwargs": "yes"}, "hyperparameter_tune_kwargs"),
        ({"devices": "gpu"}, "devices"),
        ({"num_workers": -1}, "num_workers"),
    ]
    for arguments, text in cases:
        with pytest.raises(ConfigError, match=text):
            tiny(tmp_path / "m").fit(textures, **arguments)
    assert not (tmp_path / "m").exists()
    with pytest.raises(ConfigError, match="Did you mean 'mean_iou'"):
        tiny(tmp_path / "m", eval_metric="mean_iuo").fit(textures, **NO_SEARCH)


def test_cross_val_score(textures: pd.DataFrame, tmp_path: Path) -> None:
    scores = cross_val_score(tiny(tmp_path), textures, cv=2, params=NO_SEARCH)
    assert scores.shape == (2,) and np.isfinite(scores).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit_1", "fit_2"]


def test_cross_validate_with_separate_masks(textures: pd.DataFrame, tmp_path: Path) -> None:
    found = cross_validate(
        tiny(tmp_path), textures[["image"]], textures["label"], cv=2, params=NO_SEARCH, return_estimator=True
    )
    assert np.isfinite(found["test_score"]).all()
    assert all(e.path_.parent == tmp_path for e in found["estimator"])


def test_cross_val_predict_keeps_rows(textures: pd.DataFrame, tmp_path: Path) -> None:
    masks = cross_val_predict(tiny(tmp_path), textures, cv=2, params=NO_SEARCH)
    assert masks.shape == (12,) and all(m.shape == (64, 80) for m in masks)


def test_group_k_fold(textures: pd.DataFrame, tmp_path: Path) -> None:
    groups = [i // 3 for i in range(12)]
    scores = cross_val_score(tiny(tmp_path), textures, cv=GroupKFold(2), groups=groups, params=NO_SEARCH)
    assert np.isfinite(scores).all()


def test_grid_search(textures: pd.DataFrame, tmp_path: Path) -> None:
    search = GridSearchCV(tiny(tmp_path), {"random_state": [0, 1]}, cv=2).fit(textures, **NO_SEARCH)
    assert len(search.cv_results_["params"]) == 2 and search.best_params_["random_state"] in (0, 1)
    assert len(search.predict(textures)) == 12 and np.isfinite(search.score(textures))
    assert len(list(tmp_path.iterdir())) == 5  # four folds and the refit


def test_grid_search_over_a_pipeline_with_groups_routed(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Clones keep their metadata requests; ``groups`` reaches the splitter and, cut to the fold, fit."""
    groups = np.arange(12) // 3
    with sklearn.config_context(enable_metadata_routing=True):
        seg = tiny(tmp_path).set_fit_request(
            hyperparameters=True, hyperparameter_tune_kwargs=True, groups=True
        )
        assert clone(seg).get_metadata_routing().fit.requests["groups"] is True
        pipe = make_pipeline(FunctionTransformer(), seg)
        search = GridSearchCV(pipe, {"semanticsegmentor__random_state": [1]}, cv=GroupKFold(2), refit=False)
        search.fit(textures, groups=groups, **NO_SEARCH)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_cross_validate_with_several_metrics(textures: pd.DataFrame, tmp_path: Path) -> None:
    def dice(seg: SemanticSegmentor, X: pd.DataFrame, y: object = None) -> float:
        return seg.evaluate(X, "dice", y=y)["dice"]

    found = cross_validate(
        tiny(tmp_path),
        textures,
        cv=2,
        params=NO_SEARCH,
        scoring={"own": dice},
        return_train_score=True,
        return_indices=True,
    )
    assert np.isfinite([found["test_own"], found["train_own"]]).all()
    assert sorted(np.concatenate(found["indices"]["test"])) == list(range(12))


def test_columns_are_found_by_name(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    """As scikit-learn, but of a table with more columns the rest is left alone, in any order."""
    assert list(multiclass.feature_names_in_) == ["image"] and multiclass.n_features_in_ == 1
    table = textures[:2].assign(age=3)[["age", "label", "image"]]
    for mask, expected in zip(multiclass.predict(table), multiclass.predict(textures[:2]), strict=True):
        np.testing.assert_array_equal(mask, expected)
    with pytest.raises(ValueError, match=r"'image' is not among the columns.*Did you mean 'images'"):
        multiclass.predict(textures.rename(columns={"image": "images"}))


def test_set_output_is_for_the_steps_before(textures: pd.DataFrame, tmp_path: Path) -> None:
    """A predictor has no ``set_output``; a step that renames columns hands its table on."""
    assert not hasattr(tiny(), "set_output")
    rename = FunctionTransformer(lambda table: table.rename(columns={"file": "image"}))
    pipe = make_pipeline(rename, tiny(tmp_path / "m")).set_output(transform="pandas")
    table = textures.rename(columns={"image": "file"}).set_index(pd.Index(range(100, 112)))
    pipe.fit(table, **{f"semanticsegmentor__{k}": v for k, v in NO_SEARCH.items()})
    assert pipe.predict(table).index.equals(table.index)


def test_pipeline(textures: pd.DataFrame, tmp_path: Path) -> None:
    pipe = make_pipeline(FunctionTransformer(), tiny(tmp_path / "m"))
    pipe.fit(textures, **{f"semanticsegmentor__{k}": v for k, v in NO_SEARCH.items()})
    assert len(pipe.predict(textures)) == 12 and np.isfinite(pipe.score(textures))


def test_metadata_routing(textures: pd.DataFrame, tmp_path: Path) -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        seg = tiny(tmp_path).set_fit_request(hyperparameters=True, hyperparameter_tune_kwargs=True)
        scores = cross_val_score(seg, textures, cv=2, params={**NO_SEARCH, "hyperparameters": SMALL})
    assert np.isfinite(scores).all()
