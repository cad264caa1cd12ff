"""Three lines, a fresh process, going on from a model, interruption, copies, unwritable folders."""

from __future__ import annotations

import os
import pickle
import pickletools
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone

from semseg_automl import SemanticSegmentor
from semseg_automl.core.errors import ArtifactError, ChecksumError, ConfigError
from semseg_automl.models.devices import pick_devices
from tests.integration.quick import NO_SEARCH, SMALL, python, relabelled, tiny


def same_masks(first: pd.Series, second: pd.Series) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))


def test_three_lines_in_an_empty_folder(
    textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seg = SemanticSegmentor(problem_type="multiclass", backbone="sam_tiny", verbosity=0)
    masks = seg.fit(textures, **NO_SEARCH).predict(textures)
    assert len(masks) == 12 and masks.iloc[0].shape == (64, 80)
    assert seg.path_.parent == tmp_path / "SemsegModels" and (seg.path_ / "current.json").is_file()
    again = SemanticSegmentor(backbone="sam_tiny", verbosity=0).fit(textures, **NO_SEARCH)
    assert again.path_ != seg.path_  # a second fit never writes into the first one's folder


@pytest.mark.parametrize("preset", ["medium_quality", "fast_inference"])
def test_the_validation_score_is_what_evaluate_gives(
    preset: str, mixed_sizes: pd.DataFrame, tmp_path: Path
) -> None:
    """With the mirrored picture and without, for pictures of several sizes."""
    train, val = mixed_sizes.iloc[::2], mixed_sizes.iloc[1::2]
    seg = tiny(tmp_path / "m").fit(train, tuning_data=val, presets=preset, **NO_SEARCH)
    assert seg.evaluate(val)["mean_iou"] == pytest.approx(seg.best_score_, abs=1e-4)
    masks, mirrored = seg.predict_proba(val), seg.predict_proba(val, tta=preset != "medium_quality")
    assert not all(np.allclose(a, b, atol=1e-4) for a, b in zip(masks, mirrored, strict=True))


def test_a_fresh_process_gives_bit_equal_masks(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(multiclass.path_, tmp_path / "moved")
    textures.to_csv(tmp_path / "test.csv", index=False)
    code = (
        "import numpy as np, torch; from semseg_automl import SemanticSegmentor\n"
        f"torch.set_num_threads({__import__('torch').get_num_threads()})\n"
        "seg = SemanticSegmentor.load('moved')\n"
        "np.savez('masks.npz', *seg.predict('test.csv'))\n"
        "np.savez('proba.npz', *seg.predict_proba('test.csv'))"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    for file, here in (
        ("masks", multiclass.predict(textures)),
        ("proba", multiclass.predict_proba(textures)),
    ):
        with np.load(tmp_path / f"{file}.npz") as there:
            assert same_masks(pd.Series(there[k] for k in there.files), here)


def test_load_brings_everything_back(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    loaded = SemanticSegmentor.load(multiclass.path_, verbosity=0)
    assert loaded.evaluate(textures) == multiclass.evaluate(textures)
    assert loaded.score(textures) == multiclass.score(textures)
    assert loaded.best_score_ == multiclass.best_score_
    assert list(loaded.classes_) == list(multiclass.classes_)
    assert loaded.best_config_ == multiclass.best_config_
    pd.testing.assert_frame_equal(loaded.leaderboard(), multiclass.leaderboard())
    assert loaded.fit_summary(show=False).keys() == multiclass.fit_summary(show=False).keys()
    assert loaded.fit_summary(show=False)["device"] == str(pick_devices("auto"))


def test_load_takes_devices(multiclass: SemanticSegmentor, textures: pd.DataFrame) -> None:
    loaded = SemanticSegmentor.load(multiclass.path_, verbosity=0, devices="cpu")
    assert loaded._get_predictor().device.type == "cpu"
    assert same_masks(loaded.predict(textures), multiclass.predict(textures))
    with pytest.raises(ConfigError, match="devices='tpu'"):
        SemanticSegmentor.load(multiclass.path_, verbosity=0, devices="tpu")


def test_column_names_are_part_of_the_model(textures: pd.DataFrame, tmp_path: Path) -> None:
    table = textures.rename(columns={"image": "picture", "label": "truth"})
    seg = tiny(tmp_path / "m", image="picture", label="truth").fit(table, **NO_SEARCH)
    loaded = SemanticSegmentor.load(tmp_path / "m", verbosity=0)
    assert loaded.evaluate(table) == seg.evaluate(table)


@pytest.mark.parametrize("include_backbone", [False, True])
def test_save_elsewhere(
    include_backbone: bool, multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    folder = multiclass.save(tmp_path / "copy", include_backbone=include_backbone)
    loaded = SemanticSegmentor.load(folder, verbosity=0)
    assert same_masks(loaded.predict(textures), multiclass.predict(textures))
    assert list(loaded.leaderboard()["model"]) == list(multiclass.leaderboard()["model"])


def test_folders_below_home_and_after_chdir(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert multiclass.save("~/m") == tmp_path / "m"
    loaded = SemanticSegmentor.load("m", verbosity=0)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert loaded.save() == SemanticSegmentor.load("~/m", verbosity=0).path_ == tmp_path / "m"
    loaded.predict(textures.head(2), output_dir="~/masks")
    assert len(list((tmp_path / "masks").glob("*.png"))) == 2 and not any(Path.cwd().iterdir())


def test_a_readme_of_somebodys_own_stays(
    multiclass: SemanticSegmentor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = tmp_path / "m" / "README.md"
    mine.parent.mkdir()
    mine.write_text("# My project\n")
    multiclass.save(tmp_path / "m")
    assert mine.read_text() == "# My project\n" and "is no model card" in caplog.text
    card = multiclass.save(tmp_path / "n") / "README.md"
    before = card.read_text()
    card.write_text(before + "old")
    multiclass.save(tmp_path / "n")
    assert card.read_text() == before


def test_pickle_drops_the_network_and_rebuilds_it(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    here = multiclass.predict(textures)
    copy = pickle.loads(pickle.dumps(multiclass))
    assert "_predictor" not in vars(copy)
    assert same_masks(copy.predict(textures), here)
    assert "_predictor" in vars(multiclass)


def test_a_pickle_gives_bit_equal_masks_in_a_fresh_process(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    """With joblib as with pickle; the model's folder may be gone."""
    copy = shutil.copytree(multiclass.path_, tmp_path / "m")
    seg = SemanticSegmentor.load(copy, verbosity=0)
    joblib.dump(seg, tmp_path / "seg.joblib")
    (tmp_path / "seg.pickle").write_bytes(pickle.dumps(deepcopy(seg)))
    shutil.rmtree(copy)
    textures.to_csv(tmp_path / "test.csv", index=False)
    code = (
        "import joblib, numpy as np, pickle, torch\n"
        f"torch.set_num_threads({__import__('torch').get_num_threads()})\n"
        "np.savez('joblib.npz', *joblib.load('seg.joblib').predict('test.csv'))\n"
        "np.savez('pickle.npz', *pickle.load(open('seg.pickle', 'rb')).predict('test.csv'))"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("joblib", "pickle"):
        with np.load(tmp_path / f"{name}.npz") as there:
            assert same_masks(pd.Series(there[k] for k in there.files), multiclass.predict(textures))


def test_a_pickle_holds_the_saved_model_and_no_tensor_of_its_own(multiclass: SemanticSegmentor) -> None:
    """What it unpickles beside bytes are parameters and facts: a changed byte is found as in a folder."""
    data = pickle.dumps(multiclass)
    names = {arg for op, arg, _ in pickletools.genops(data) if op.name in ("SHORT_BINUNICODE", "GLOBAL")}
    assert not {n for n in names if isinstance(n, str) and "_rebuild_tensor" in n}
    place = data.index(b"__metadata__") if b"__metadata__" in data else data.index(b'"mask_tokens"') + 40_000
    with pytest.raises(ChecksumError, match="changed after saving"):
        pickle.loads(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_an_unfitted_estimator_pickles_as_its_parameters(tmp_path: Path) -> None:
    seg = tiny(tmp_path, classes=["a", "b"])
    for copy in (pickle.loads(pickle.dumps(seg)), deepcopy(seg)):
        assert copy.get_params() == seg.get_params() and not copy.__sklearn_is_fitted__()
    folds = clone(seg)
    assert pickle.loads(pickle.dumps(folds))._is_clone


def test_pickle_after_a_search(textures: pd.DataFrame, tmp_path: Path) -> None:
    seg = tiny(tmp_path / "m").fit(
        textures, hyperparameters=SMALL, hyperparameter_tune_kwargs={"num_trials": 2}
    )
    copy = pickle.loads(pickle.dumps(seg))
    assert len(copy.study_.trials) == 2 and same_masks(copy.predict(textures), seg.predict(textures))


def test_the_same_seed_and_epochs_give_a_bit_equal_model(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    again = tiny(tmp_path / "m").fit(textures, **NO_SEARCH)
    first, second = multiclass._model.state, again._model.state
    for old, new in ((first.adapter, second.adapter), (first.head, second.head)):
        assert old.keys() == new.keys() and all(old[k].equal(new[k]) for k in old)
    assert same_masks(again.predict(textures), multiclass.predict(textures))
    other = tiny(tmp_path / "o", random_state=1).fit(textures, **NO_SEARCH)
    assert not all(first.head[k].equal(other._model.state.head[k]) for k in first.head)


def test_output_folder_skips_what_is_finished(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    paths = multiclass.predict(textures, output_dir=tmp_path)
    before = [os.stat(p).st_mtime_ns for p in paths]
    os.remove(paths[5])
    again = multiclass.predict(textures[::-1], output_dir=tmp_path)
    assert list(again) == list(paths[::-1])
    assert [os.stat(p).st_mtime_ns == t for p, t in zip(paths, before, strict=True)].count(False) == 1


def test_masks_of_another_fit_are_replaced(textures: pd.DataFrame, tmp_path: Path) -> None:
    """Two fits of equal settings and equal score must not be taken for one model."""
    first, second = (tiny(tmp_path / name).fit(textures, **NO_SEARCH) for name in "ab")
    assert first.best_score_ == second.best_score_
    paths = first.predict(textures[:2], output_dir=tmp_path / "out")
    before = [os.stat(p).st_mtime_ns for p in paths]
    second.predict(textures[:2], output_dir=tmp_path / "out")
    assert all(os.stat(p).st_mtime_ns > t for p, t in zip(paths, before, strict=True))


# going on from a model


def test_init_from_starts_where_the_model_ended(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    still = {**SMALL, "learning_rate": 1e-12, "decoder_learning_rate": 1e-12}
    seg = tiny(tmp_path / "m").fit(
        textures, hyperparameters=still, hyperparameter_tune_kwargs=None, init_from=multiclass.path_
    )
    old, new = multiclass.predict_proba(textures), seg.predict_proba(textures)
    for a, b in zip(old, new, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    fresh = tiny(tmp_path / "f").fit(textures, hyperparameters=still, hyperparameter_tune_kwargs=None)
    assert max(np.abs(a - b).max() for a, b in zip(old, fresh.predict_proba(textures), strict=True)) > 1e-3


def test_init_from_with_a_new_class(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    def with_corner(_row: int, mask: np.ndarray) -> np.ndarray:
        mask[:20, :20] = 7
        return mask

    table = relabelled(textures, tmp_path / "masks", with_corner)
    still = {**SMALL, "learning_rate": 1e-12, "decoder_learning_rate": 1e-12}
    seg = tiny(tmp_path / "m").fit(
        table, hyperparameters=still, hyperparameter_tune_kwargs=None, init_from=multiclass.path_
    )
    assert seg.class_values_ == [0, 1, 2, 7]
    known = [p[:3] / p[:3].sum(0) for p in seg.predict_proba(textures)]  # softmax without the new class
    for a, b in zip(multiclass.predict_proba(textures), known, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02)


@pytest.mark.parametrize("values", [{2: 0}, {1: 5}])
def test_init_from_keeps_the_classes_that_the_new_table_lacks(
    values: dict[int, int],
    multiclass: SemanticSegmentor,
    textures: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two values would be another problem by themselves; new ones come behind those that are known."""

    def changed(_row: int, mask: np.ndarray) -> np.ndarray:
        return np.vectorize(lambda v: values.get(v, v), otypes=[np.uint8])(mask)

    table = relabelled(textures, tmp_path / "masks", changed)
    still = {**SMALL, "learning_rate": 1e-12, "decoder_learning_rate": 1e-12}
    seg = tiny(tmp_path / "m", verbosity=2).fit(
        table, hyperparameters=still, hyperparameter_tune_kwargs=None, init_from=multiclass.path_
    )
    assert seg.class_values_ == [0, 1, 2, *({5} & set(values.values()))]
    assert "in no mask of this table" in caplog.text
    for a, b in zip(multiclass.predict_proba(textures), seg.predict_proba(textures), strict=True):
        np.testing.assert_allclose(a, b[:3] / b[:3].sum(0), atol=0.02)


def test_a_fit_from_a_model_is_gone_on_with_by_itself(
    multiclass: SemanticSegmentor, binary_textures: pd.DataFrame, tmp_path: Path
) -> None:
    """The model in the folder knows the classes; ``resume=True`` needs no ``init_from``."""
    first = tiny(tmp_path / "m").fit(binary_textures, init_from=multiclass.path_, **NO_SEARCH)
    assert first.class_values_ == [0, 1, 2]
    for _ in range(2):
        again = tiny(tmp_path / "m").fit(binary_textures, resume=True, **NO_SEARCH)
        assert again.class_values_ == [0, 1, 2]


def test_classes_that_init_from_drops_are_named(
    multiclass: SemanticSegmentor,
    binary_textures: pd.DataFrame,
    textures: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = {"problem_type": "multiclass", "verbosity": 1}
    seg = tiny(tmp_path / "m", classes=["0", "1"], **given)
    seg.fit(binary_textures, init_from=multiclass.path_, **NO_SEARCH)
    assert (
        seg.classes_.tolist() == ["0", "1"] and "classes 2 are none of the new ones: dropped" in caplog.text
    )
    with pytest.raises(ArtifactError, match="none of its classes 0, 1, 2 is among"):
        named = tiny(tmp_path / "n", classes=["sky", "sea", "land"], **given)
        named.fit(textures, init_from=multiclass.path_, **NO_SEARCH)


def test_init_from_decides_the_structure_and_says_so(
    multiclass: SemanticSegmentor,
    textures: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seg = tiny(tmp_path / "m", verbosity=1).fit(
        textures,
        hyperparameters={**SMALL, "rank": 16},
        hyperparameter_tune_kwargs=None,
        init_from=multiclass.path_,
    )
    assert seg.best_config_["rank"] == 4
    assert "The saved model decides rank" in caplog.text


def test_init_from_something_else_is_refused(
    multiclass: SemanticSegmentor, binary_textures: pd.DataFrame, textures: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="multiclass model, the new table is binary"):
        tiny(tmp_path / "a", problem_type="binary").fit(
            binary_textures, init_from=multiclass.path_, **NO_SEARCH
        )
    black_and_white = relabelled(binary_textures, tmp_path / "masks", lambda _row, mask: mask * 255)
    with pytest.raises(ArtifactError, match="multiclass model, the new table is binary"):
        tiny(tmp_path / "c").fit(black_and_white, init_from=multiclass.path_, **NO_SEARCH)
    with pytest.raises(ArtifactError, match="holds no saved model"):
        tiny(tmp_path / "b").fit(textures, init_from=tmp_path / "nothing", **NO_SEARCH)


def test_init_from_pictures_of_other_channels_is_refused(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is in the extra [tiff]")
    paths = []
    for i, image in enumerate(textures["image"][:6]):
        rgb = np.asarray(Image.open(image))
        paths.append(str(tmp_path / f"{i}.tif"))
        five = np.concatenate([rgb, rgb[..., :2]], axis=2)
        tifffile.imwrite(paths[-1], five, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ArtifactError, match="takes pictures of 3 channels, these have 5"):
        tiny(tmp_path / "m").fit(
            textures.head(6).assign(image=paths), init_from=multiclass.path_, **NO_SEARCH
        )


def test_a_folder_with_a_model_is_not_overwritten(
    multiclass: SemanticSegmentor, textures: pd.DataFrame
) -> None:
    with pytest.raises(ArtifactError, match="already holds a model"):
        tiny(multiclass.path_).fit(textures, **NO_SEARCH)


def test_resume_counts_all_runs_and_keeps_the_better_model(textures: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "m"
    hyper = {k: v for k, v in SMALL.items() if k != "max_epochs"}
    first = tiny(path).fit(textures, time_limit=2, hyperparameters=hyper, resume=True)  # nothing there: fresh
    spent = first.fit_summary(show=False)["seconds"]["total"]
    second = tiny(path).fit(textures, time_limit=spent + 2.5, hyperparameters=hyper, resume=True)
    assert second.best_score_ >= first.best_score_
    assert second.fit_summary(show=False)["runs"] == 2
    assert spent < second.fit_summary(show=False)["seconds"]["total"] <= 1.05 * (spent + 2.5) + 5
    models = list(second.leaderboard()["model"])
    assert sorted(models) == ["default", "majority_class", "run2_default"]
    assert second.fit_summary(show=False)["best_model"] in models
    assert SemanticSegmentor.load(path, verbosity=0).best_score_ == second.best_score_

    started = time.perf_counter()
    third = tiny(path).fit(textures, time_limit=spent, hyperparameters=hyper, resume=True)  # time is used up
    assert time.perf_counter() - started < 2
    assert third.fit_summary(show=False)["runs"] == 2
    assert same_masks(third.predict(textures), second.predict(textures))


def test_resume_of_a_finished_training_returns_at_once(textures: pd.DataFrame, tmp_path: Path) -> None:
    first = tiny(tmp_path / "m").fit(textures, **NO_SEARCH)
    again = tiny(tmp_path / "m").fit(textures, resume=True, **NO_SEARCH)
    assert again.fit_summary(show=False)["runs"] == 1 and again.best_score_ == first.best_score_
    more = tiny(tmp_path / "m").fit(
        textures, resume=True, hyperparameters={**SMALL, "max_epochs": 2}, hyperparameter_tune_kwargs=None
    )
    assert more.fit_summary(show=False)["runs"] == 2 and more.best_score_ >= first.best_score_


def test_resume_with_other_classes_is_refused(
    binary_textures: pd.DataFrame, multiclass: SemanticSegmentor
) -> None:
    with pytest.raises(ArtifactError, match="init_from"):
        tiny(multiclass.path_).fit(binary_textures, resume=True, **NO_SEARCH)


# what goes wrong


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that one process can send another")
def test_ctrl_c_keeps_the_best_so_far(textures: pd.DataFrame, tmp_path: Path) -> None:
    textures.to_csv(tmp_path / "train.csv", index=False)
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG, format='%(message)s')\n"
        "from semseg_automl import SemanticSegmentor\n"
        "seg = SemanticSegmentor(backbone='sam_tiny', path='m', verbosity=3)\n"
        "seg.fit('train.csv', hyperparameters={'image_size': 64, 'max_epochs': 100000}, "
        "hyperparameter_tune_kwargs=None)\n"
        "print('masks:', len(seg.predict('train.csv')), seg.fit_summary(show=False)['state'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if "Plan: 1 model" in line:
                time.sleep(1.0)  # in the middle of training
                process.send_signal(signal.SIGINT)
            if "masks:" in line:
                break
        assert process.wait(60) == 0, "".join(lines)
    finally:
        process.kill()
    text = "".join(lines)
    assert "Interrupted: the best model so far is kept" in text and "masks: 12 interrupted" in text
    assert len(SemanticSegmentor.load(tmp_path / "m", verbosity=0).predict(textures)) == 12


def test_a_folder_that_can_not_be_written(textures: pd.DataFrame, tmp_path: Path) -> None:
    """A path below a regular file: permissions would not stop root."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(ArtifactError, match=r"can't be written.*Pass path="):
            tiny(path).fit(textures, **NO_SEARCH)


def test_an_output_folder_that_can_not_be_written(
    multiclass: SemanticSegmentor, textures: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="can't be created"):
        multiclass.predict(textures, output_dir=tmp_path / "file" / "masks")
