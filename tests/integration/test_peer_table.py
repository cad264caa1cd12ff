"""What AutoGluon MultiModal 1.6.3 failed at when it was run (design note, "What happened when it was run").

One test a line of that table; lines on export and HTML belong to other issues.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl import SemanticSegmentor, SemsegError
from semseg_automl.core.errors import DataError
from semseg_automl.estimator._resolve import resolve_request
from semseg_automl.estimator.presets import PRESETS
from semseg_automl.search.planner import Fingerprint, Probe, make_plan
from tests.integration.quick import NO_SEARCH, SMALL, python, relabelled, tiny

FACTS = Fingerprint(n_train=500, n_val=50, height=480, width=640, n_classes=3, foreground=0.4, thinness=0.01)
FAST = Probe(train_seconds_per_mpx=0.01, predict_seconds_per_mpx=0.004)


def allowed(limit: float) -> float:
    """Seconds that a fit with this limit may take."""
    return 1.05 * limit + 5.0


# hyperparameter_tune_kwargs: "AssertionError: no search for this task at all"


def test_search_runs_and_returns_several_trials(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(
        textures, hyperparameters=SMALL, hyperparameter_tune_kwargs={"num_trials": 3}
    )
    board = seg.leaderboard()
    trained = board[board["state"] != "baseline"]
    assert list(sorted(trained["model"])) == ["default", "trial_1", "trial_2"]
    assert seg.study_ is not None and len(seg.study_.trials) == 3
    assert trained["learning_rate"].nunique() == 3
    assert seg.best_score_ == board["score_val"][board["state"] != "baseline"].max()
    assert len(seg.predict(textures)) == len(textures)


# medium / high / best presets: "identical (ViT-H, LoRA r = 3)"


def test_presets_differ() -> None:
    plans = []
    for name, preset in PRESETS.items():
        request = resolve_request(
            presets=name,
            hyperparameters=None,
            tune_kwargs="auto",
            devices="auto",
            num_workers="auto",
            seed=0,
            verbosity=0,
            storage=None,
            callbacks=None,
        )
        plan = make_plan(request, FACTS, FAST, 3600.0)
        plans.append((plan.config, plan.trials > 1, preset.tta))
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


# time_limit: "soft: 1 s -> 2.4, 15 -> 16.3, 30 s at ViT-B -> 110"


@pytest.mark.timing
def test_time_limit_of_one_second_in_a_fresh_process(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Torch, Lightning and Optuna are imported inside fit, so they count.

    Where importing alone takes more than the allowance, the least possible is done, with a warning.
    """
    textures.to_csv(tmp_path / "train.csv", index=False)
    code = (
        "import time; from semseg_automl import SemanticSegmentor\n"
        "seg, t = SemanticSegmentor(backbone='sam_tiny', path='m'), time.perf_counter()\n"
        "seg.fit('train.csv', time_limit=1); print(time.perf_counter() - t)\n"
        "print(seg.fit_summary(show=False)['seconds']['import'], len(seg.predict('train.csv')))"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    seconds, imports, rows = map(float, done.stdout.split())
    assert seconds <= max(allowed(1.0), imports + 2.0) and rows == len(textures)
    if imports > 1.0:
        assert "the least possible was done" in done.stderr


@pytest.mark.timing
def test_time_limit_of_five_seconds_is_kept_and_used(textures: pd.DataFrame, tmp_path: Path) -> None:
    """The limit sets the schedule: training goes on until it, however few epochs that would be."""
    started = time.perf_counter()
    seg = tiny(tmp_path / "m").fit(textures, time_limit=5)
    assert 2.5 <= time.perf_counter() - started <= allowed(5.0)
    summary = seg.fit_summary(show=False)
    assert summary["state"] == "time" and summary["seconds"]["total"] <= allowed(5.0)


# evaluate(df) without metrics, or with "dice": "TypeError / ValueError"


def test_evaluate_without_metrics(
    multiclass: SemanticSegmentor,
    binary: SemanticSegmentor,
    textures: pd.DataFrame,
    binary_textures: pd.DataFrame,
) -> None:
    found = multiclass.evaluate(textures)
    assert list(found) == ["mean_iou", "dice", "pixel_accuracy"]
    assert all(isinstance(v, float) and 0 <= v <= 1 for v in found.values())
    assert list(binary.evaluate(binary_textures)) == ["iou", "dice", "pixel_accuracy", "ber", "mae"]


def test_evaluate_with_dice(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    assert multiclass.evaluate(textures, "dice") == {"dice": multiclass.evaluate(textures)["dice"]}


# predict on a filtered / a reordered frame: "KeyError / masks silently resized to another row's picture"


@pytest.mark.parametrize("rows", [[1, 4], [5, 3, 0, 2, 4, 1], [2, 2]], ids=["filtered", "reordered", "twice"])
def test_predict_on_some_rows_in_any_order(
    rows: list[int], multiclass: SemanticSegmentor, mixed_sizes: pd.DataFrame
) -> None:
    chosen = mixed_sizes.set_index(pd.Index([f"row{i}" for i in range(6)])).iloc[rows]
    masks = multiclass.predict(chosen)
    assert list(masks.index) == [f"row{i}" for i in rows]
    for position, i in enumerate(rows):
        alone = multiclass.predict(mixed_sizes["image"][i])
        mask = masks.iloc[position]
        assert mask.shape == alone.shape == np.array(Image.open(mixed_sizes["label"][i])).shape
        assert (mask == alone).mean() > 0.999


# predict on a list of paths; one missing file: "KeyError / cryptic ValueError"


def test_predict_on_a_list_of_paths(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    masks = multiclass.predict(list(textures["image"][:3]))
    assert list(masks.index) == [0, 1, 2] and all(m.shape == (64, 80) for m in masks)


def test_one_missing_file_is_one_clear_error(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    wrong = textures.copy()
    wrong.loc[7, "image"] = str(tmp_path / "gone.png")
    for call in (multiclass.predict, multiclass.evaluate, multiclass.predict_proba):
        with pytest.raises(DataError, match=r"(?s)missing image.*7.*gone\.png") as caught:
            call(wrong)
        assert isinstance(caught.value, ValueError | SemsegError)


# predict_proba: "binary: bare AssertionError; multi-class: softmax over probabilities, nearly flat"


def test_probabilities_of_a_binary_model(binary: SemanticSegmentor, binary_textures: pd.DataFrame) -> None:
    for p, mask in zip(binary.predict_proba(binary_textures), binary.predict(binary_textures), strict=True):
        assert p.shape == (2, 64, 80) and p.dtype == np.float32
        np.testing.assert_allclose(p.sum(0), 1.0, atol=1e-5)
        decided = p[1] >= binary._get_predictor().threshold
        assert ((mask == binary.class_values_[1]) == decided).all()


def test_probabilities_of_a_multiclass_model(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    for p, mask in zip(multiclass.predict_proba(textures), multiclass.predict(textures), strict=True):
        assert p.shape == (3, 64, 80) and p.dtype == np.float32
        np.testing.assert_allclose(p.sum(0), 1.0, atol=1e-5)
        assert (np.array(multiclass.class_values_)[p.argmax(0)] == mask).all()


def test_probabilities_are_one_softmax_over_logits(
    multiclass: SemanticSegmentor, textures: pd.DataFrame
) -> None:
    """The peer took the softmax of probabilities: three classes then never exceed 0.58."""
    import torch

    from semseg_automl.data.images import read_image, to_rgb
    from semseg_automl.data.preprocess import plan_geometry, prepare_image

    path, segmenter = textures["image"][0], multiclass._get_predictor().segmenter
    geometry = plan_geometry((64, 80), 64, 32)
    with torch.no_grad():
        logits = segmenter(prepare_image(to_rgb(read_image(path), None), geometry)[None])[0]  # (K, h/4, w/4)
        size = tuple(4 * s for s in logits.shape[1:])
        large = torch.nn.functional.interpolate(logits[None], size, mode="bilinear")
        large = large[..., : geometry.resized[0], : geometry.resized[1]]
        expected = torch.nn.functional.interpolate(large, (64, 80), mode="bilinear")[0].softmax(0).numpy()
    found = multiclass.predict_proba(path, tta=False)
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert np.ptp(found) > 0.5 * np.ptp(expected)


# multi-class with only num_classes: "KeyError until another loss is named; 255 as ignore: size error;
# {0,1} masks, one all-255 mask, RGB masks, one-row training set: fail or misread"


def check_usable(seg: SemanticSegmentor, table: pd.DataFrame, values: list) -> None:
    assert seg.class_values_ == values
    assert np.isfinite(list(seg.evaluate(table).values())).all()
    mask = seg.predict(table).iloc[0]
    found = {tuple(v) if isinstance(v, np.ndarray) else v for v in mask.reshape(-1, *mask.shape[2:])}
    assert found <= set(values)


def test_multiclass_out_of_the_box(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    assert multiclass.problem_type_ == "multiclass" and multiclass.n_classes_ == 3
    check_usable(multiclass, textures, [0, 1, 2])


def test_255_is_ignored(textures: pd.DataFrame, tmp_path: Path) -> None:
    def with_border(_row: int, mask: np.ndarray) -> np.ndarray:
        mask[:6] = 255
        return mask

    table = relabelled(textures, tmp_path / "masks", with_border)
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    check_usable(seg, table, [0, 1, 2])
    assert seg._model.label_map.ignore == 255


def test_masks_of_zero_and_one(binary: SemanticSegmentor, binary_textures: pd.DataFrame) -> None:
    assert set(np.unique(np.array(Image.open(binary_textures["label"][0])))) == {0, 1}
    assert binary.problem_type_ == "binary"
    check_usable(binary, binary_textures, [0, 1])


@pytest.mark.parametrize("kind", ["ignored", "foreground"])
def test_one_mask_of_nothing_but_255(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Beside class indices it is an unlabelled picture, beside 0/255 masks one full of foreground."""
    table = request.getfixturevalue("textures" if kind == "ignored" else "binary_textures")
    scale = 1 if kind == "ignored" else 255
    table = relabelled(
        table,
        tmp_path / "masks",
        lambda i, m: np.full_like(m, 255) if i == 4 else (m * scale).astype(np.uint8),
    )
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    check_usable(seg, table, [0, 1, 2] if kind == "ignored" else [0, 255])


def test_an_unlabelled_picture_is_never_the_validation_set(textures: pd.DataFrame, tmp_path: Path) -> None:
    table = relabelled(textures[:4], tmp_path / "masks", lambda i, m: np.full_like(m, 255) if i < 2 else m)
    for seed in range(2):
        seg = tiny(tmp_path / str(seed), random_state=seed).fit(table, **NO_SEARCH)
        assert np.isfinite(seg.best_score_)


def test_rgb_masks(textures: pd.DataFrame, tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (200, 30, 0), (0, 90, 255)], np.uint8)
    table = relabelled(textures, tmp_path / "masks", lambda _i, m: colours[m])
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    check_usable(seg, table, [(0, 0, 0), (0, 90, 255), (200, 30, 0)])
    assert seg.predict(table["image"][0]).shape == (64, 80, 3)


def test_one_row_training_set(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(textures[:1], **NO_SEARCH)
    assert np.isfinite(seg.best_score_) and len(seg.predict(textures)) == len(textures)


# leaderboard, fit_summary: "none / reports the last epoch, not the kept one"


def test_leaderboard(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    board = multiclass.leaderboard(textures)
    assert set(board["model"]) == {"default", "majority_class"}
    assert board["score_val"].is_monotonic_decreasing
    columns = ["model", "score_val", "score_test", "state", "reason", "rank", "learning_rate", "fit_time"]
    columns += ["seconds_per_step", "predict_time", "n_trainable", "peak_memory_mb"]
    assert set(columns) <= set(board.columns)
    kept = board.set_index("model").loc["default"]
    assert kept["score_val"] == multiclass.best_score_ and kept["rank"] == 4
    assert kept["score_test"] == pytest.approx(multiclass.score(textures))
    baseline = board.set_index("model").loc["majority_class"]
    pixels = np.concatenate([np.array(Image.open(p)).ravel() for p in textures["label"]])
    assert baseline["score_test"] == pytest.approx(np.bincount(pixels).max() / len(pixels) / 3)


def test_fit_summary_reports_the_kept_model(textures: pd.DataFrame, tmp_path: Path) -> None:
    hot = {**SMALL, "max_epochs": 6, "learning_rate": 0.3, "decoder_learning_rate": 0.3}
    seg = tiny(tmp_path / "m").fit(textures, hyperparameters=hot, hyperparameter_tune_kwargs=None)
    summary = seg.fit_summary(show=False)
    scores = [score for _step, _seconds, score in summary["history"]]
    kept = scores[scores.index(max(scores)) :]  # the peak, or a later one that can't be told from it
    assert len(scores) > 2 and summary["score_val"] in kept and summary["score_val"] == seg.best_score_
    again = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert again.best_score_ == seg.best_score_
    assert summary["metrics_val"]["mean_iou"] == pytest.approx(seg.best_score_)


def test_fit_summary_shows_a_text(multiclass: SemanticSegmentor, caplog: pytest.LogCaptureFixture) -> None:
    multiclass.fit_summary()
    text = caplog.text  # on stderr, where no logging is configured
    assert "Plan: " in text and "Models trained: 1" in text and "Time: " in text


# saved multi-class results: "a 1488 x 1108 plot in random colours for a 313 x 298 picture"


def test_saved_results_are_raw_values_at_the_pictures_own_size(
    mixed_sizes: pd.DataFrame, tmp_path: Path
) -> None:
    values = np.array([10, 70, 200], np.uint8)
    table = relabelled(mixed_sizes, tmp_path / "masks", lambda _i, m: values[m])
    seg = tiny(tmp_path / "m").fit(table, **NO_SEARCH)
    paths = seg.predict(table, output_dir=tmp_path / "out")
    masks = seg.predict(table)
    for path, mask, image in zip(paths, masks, table["image"], strict=True):
        with Image.open(path) as stored, Image.open(image) as picture:
            assert stored.mode == "L" and stored.size == picture.size
            assert (np.array(stored) == mask).all()
        assert set(np.unique(mask)) <= {10, 70, 200}


# image size: "cannot be set; metrics at model size"


@pytest.mark.parametrize("size", [96, (64, 32)])
def test_image_size_can_be_set(size: object, textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(
        textures, hyperparameters={**SMALL, "image_size": size}, hyperparameter_tune_kwargs=None
    )
    assert seg.best_config_["image_size"] == (list(size) if isinstance(size, tuple) else size)
    assert seg._get_predictor().image_size == size
    assert seg.predict(textures["image"][0]).shape == (64, 80)
    pixels = seg.evaluate(textures, per_class=True)["pixels"].sum()
    assert pixels == len(textures) * 64 * 80  # counted at the pictures' own size
