"""The paper's readers on generated folders of each published layout, its sets, and the table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.paper.readers import READERS, LayoutError, leaf_disease, pairs
from benchmarks.paper.run import as_in_the_paper, mean_and_error, read, result_path, run, table
from benchmarks.paper.sets import SETS
from semseg_automl.core.config import RunConfig
from semseg_automl.estimator._rules import check_hyperparameter
from semseg_automl.metrics.registry import METRICS

# layout -> (folder of pictures, of masks, picture suffix, mask's name) for each part, and its table
LAYOUTS: dict[str, dict[str, list[tuple[str, str, str, str]]]] = {
    "polyps": {
        "train": [("TrainDataset/image", "TrainDataset/mask", ".png", "{}.png")],
        "Kvasir": [("TestDataset/Kvasir/images", "TestDataset/Kvasir/masks", ".png", "{}.png")],
        "CVC-ClinicDB": [
            ("TestDataset/CVC-ClinicDB/images", "TestDataset/CVC-ClinicDB/masks", ".png", "{}.png")
        ],
    },
    "isic_2017": {
        split: [
            (
                f"ISIC-2017_{title}_Data",
                f"ISIC-2017_{title}_Part1_GroundTruth",
                ".jpg",
                "{}_segmentation.png",
            )
        ]
        for split, title in (("train", "Training"), ("val", "Validation"), ("test", "Test_v2"))
    },
    "camouflage": {
        "train": [("TrainDataset/Imgs", "TrainDataset/GT", ".jpg", "{}.png")],
        **{
            name: [(f"TestDataset/{name}/Imgs", f"TestDataset/{name}/GT", ".jpg", "{}.png")]
            for name in ("CAMO", "COD10K", "CHAMELEON")
        },
    },
    "sbu": {
        split: [(f"{part}/ShadowImages", f"{part}/ShadowMasks", ".jpg", "{}.png")]
        for split, part in (("train", "SBUTrain4KRecoveredSmall"), ("test", "SBU-Test"))
    },
    "massachusetts_roads": {
        split: [(f"tiff/{split}", f"tiff/{split}_labels", ".tiff", "{}.tif")]
        for split in ("train", "val", "test")
    },
    "massachusetts_roads as Mnih published them": {
        split: [(f"{title}/sat", f"{title}/map", ".tiff", "{}.tif")]
        for split, title in (("train", "train"), ("val", "valid"), ("test", "test"))
    },
    "trans10k_v1": {
        "train": [("train/images", "train/masks", ".jpg", "{}_mask.png")],
        **{
            split: [
                (f"{title}/{level}/images", f"{title}/{level}/masks", ".jpg", "{}_mask.png")
                for level in ("easy", "hard")
            ]
            for split, title in (("val", "validation"), ("test", "test"))
        },
    },
    "trans10k_v2": {
        split: [(f"{title}/images", f"{title}/masks_12", ".jpg", "{}_mask.png")]
        for split, title in (("train", "train"), ("val", "validation"), ("test", "test"))
    },
}


def picture(path: Path, seed: int, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    values = 255 * random.integers(0, 2, (8, 9)) if mask else random.integers(0, 256, (8, 9, 3))
    Image.fromarray(values.astype(np.uint8)).save(path)


def generate(folder: Path, parts: list[tuple[str, str, str, str]], count: int, first: int) -> None:
    for images, masks, suffix, name in parts:
        for i in range(first, first + count):
            stem = f"{Path(images).parent.name}_{i:03d}"
            picture(folder / images / f"{stem}{suffix}", i)
            picture(folder / masks / name.format(stem), i, mask=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_becomes_tables(layout: str, tmp_path: Path) -> None:
    for i, parts in enumerate(LAYOUTS[layout].values()):
        generate(tmp_path, parts, count=i + 2, first=10 * i)
    if layout == "isic_2017":
        picture(tmp_path / "ISIC-2017_Training_Data" / "ISIC_0_superpixels.png", 0)
        (tmp_path / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv").write_text("x")
    tables = READERS[layout.split()[0]](tmp_path)
    assert list(tables) == list(LAYOUTS[layout])
    for i, (split, parts) in enumerate(LAYOUTS[layout].items()):
        assert len(tables[split]) == (i + 2) * len(parts), split
        for image, label in tables[split].itertuples(index=False):
            template = Path(parts[0][3].format(Path(image).stem))
            assert Path(label).stem == template.stem
            assert Path(image).is_file() and Path(label).is_file()


def test_leaves_are_split_once_and_for_all(tmp_path: Path) -> None:
    generate(tmp_path, [("images", "masks", ".jpg", "{}.png")], count=20, first=0)
    first, again = leaf_disease(tmp_path), leaf_disease(tmp_path)
    assert {k: len(v) for k, v in first.items()} == {"train": 17, "test": 3}
    assert not set(first["train"]["image"]) & set(first["test"]["image"])
    pd.testing.assert_frame_equal(first["test"], again["test"])


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no folder"):
        READERS["sbu"](tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(LayoutError, match="no pictures"):
        pairs(tmp_path / "a", tmp_path / "b")
    picture(tmp_path / "a" / "1.jpg", 0)
    with pytest.raises(LayoutError, match=r"without a mask.*1\.jpg"):
        pairs(tmp_path / "a", tmp_path / "b")
    with pytest.raises(LayoutError, match="none of images"):
        READERS["leaf_disease"](tmp_path)


def test_what_macs_leave_behind_is_none_of_the_set(tmp_path: Path) -> None:
    generate(tmp_path, [("images", "masks", ".PNG", "{}.png")], count=3, first=0)
    for folder in ("images", "masks"):
        (tmp_path / folder / "._images_000.png").write_bytes(b"resource fork")
        (tmp_path / folder / ".DS_Store").write_bytes(b"x")
    picture(tmp_path / "images" / "cafe\u0301.png", 0)  # decomposed there, composed here
    picture(tmp_path / "masks" / "caf\u00e9.png", 0, mask=True)
    assert len(pairs(tmp_path / "images", tmp_path / "masks")) == 4


def test_two_files_of_one_name_are_not_chosen_from(tmp_path: Path) -> None:
    generate(tmp_path, [("images", "masks", ".png", "{}.png")], count=2, first=0)
    picture(tmp_path / "masks" / "tmp_000.png", 1, mask=True)
    with pytest.warns(UserWarning, match=r"1 masks without a picture \(first: tmp_000.png\)"):
        assert len(pairs(tmp_path / "images", tmp_path / "masks")) == 2
    stem = next((tmp_path / "images").iterdir()).stem
    picture(tmp_path / "masks" / f"{stem}.tif", 1, mask=True)
    with pytest.raises(LayoutError, match=rf"which of {stem}.png and {stem}.tif"):
        pairs(tmp_path / "images", tmp_path / "masks")


def test_tables_without_their_columns_are_said(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("picture,label\na.png,b.png\n")
    with pytest.raises(LayoutError, match="has no column image"):
        READERS["csv_tables"](tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_well_described(name: str) -> None:
    spec = SETS[name]
    assert spec.reader in READERS and set(spec.metrics) <= set(METRICS)
    for key, value in spec.hyperparameters.items():
        check_hyperparameter(key, value)
    RunConfig().replace(**spec.hyperparameters)
    assert spec.eval_metric is None or spec.eval_metric in METRICS
    if spec.problem_type == "multiclass":
        assert len(spec.classes) == {"trans10k_v1": 3, "trans10k_v2": 12}[name]


def test_sets_that_are_not_there_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEMSEG_AUTOML_DATA", raising=False)
    with pytest.raises(LayoutError, match="is not set"):
        read(SETS["sbu"])
    monkeypatch.setenv("SEMSEG_AUTOML_DATA", str(tmp_path))
    with pytest.raises(LayoutError, match="no folder"):
        read(SETS["sbu"])


def test_mean_and_standard_error() -> None:
    mean, error = mean_and_error([0.5, 0.7, 0.9])
    assert mean == pytest.approx(0.7) and error == pytest.approx(0.2 / math.sqrt(3))
    assert math.isnan(mean_and_error([0.5])[1])


@pytest.mark.parametrize("noise", [0, 7])
def test_a_run_and_its_row(noise: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole protocol on a generated copy of SBU with the test backbone and one epoch."""
    from semseg_automl.data.datasets import make_textures

    for part, count in (("SBUTrain4KRecoveredSmall", 6), ("SBU-Test", 2)):
        made = make_textures(tmp_path / part, n=count, size=(48, 64), n_classes=2, seed=count)
        root = tmp_path / "SBU-shadow" / part
        for column, folder in (("image", "ShadowImages"), ("label", "ShadowMasks")):
            (root / folder).mkdir(parents=True)
            for path in made[column]:
                values = np.array(Image.open(path))
                if column == "label":  # 0 and 255, or near them
                    near = np.arange(values.size, dtype=np.uint8).reshape(values.shape) % (noise + 1)
                    values = np.where(values == 1, 255 - near, near)
                Image.fromarray(values).save(root / folder / f"{Path(path).stem}.png")
    monkeypatch.setenv("SEMSEG_AUTOML_DATA", str(tmp_path))
    result = run("sbu", 0, "sam_tiny", {"max_epochs": 1, "image_size": 64})
    assert result["pictures"] == {"train": 6, "test": 2}
    assert result["eval_metric"] == "ber" and result["steps"] == 2  # 6 pictures, 4 a step
    assert 0 <= result["test"]["test"]["ber"] <= 1
    text = table([result, {**result, "seed": 1}])
    assert "| sbu | sam_tiny | 64 | 1 | test | 2 | ber" in text and "±" in text


def test_a_result_is_named_after_what_is_not_the_papers() -> None:
    papers = as_in_the_paper("sbu")
    assert papers == {"max_epochs": 10, "image_size": 1024}
    assert result_path("sbu", 2, "sam_vit_h", papers).name == "sbu-sam_vit_h-2.json"
    changed = {"max_epochs": 3, "image_size": 512}
    assert result_path("sbu", 2, "sam_vit_h", changed).name == "sbu-sam_vit_h-3epochs-512pixels-2.json"
