"""From the folders that each data set is published in to tables with columns image and label.

A reader takes the unpacked folder and answers {"train": ..., "val": ..., test name: ...}; "val" is missing
where none is published. Pictures without a mask, two files of one name, and folders without pictures are
errors. Masks without a picture (some sets have such) are named in a warning; hidden files, and files of other
kinds, are none of the set's.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

Tables = dict[str, pd.DataFrame]
PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}


class LayoutError(ValueError):
    """The folder does not look as the data set is published."""


def pairs(
    images: Path, masks: Path, *, name: Callable[[str], str] = lambda stem: stem, skip: str = ""
) -> pd.DataFrame:
    """Every picture in ``images`` with its mask in ``masks``, in the order of their names.

    Parameters
    ----------
    images, masks : folders.
    name : from a picture's name to its mask's, both without suffix.
    skip : pictures whose name (without suffix) ends so are none.

    Raises
    ------
    LayoutError
        A folder is missing or without pictures, a picture has no mask, or two files differ in their suffix.
    """
    found, labels = _by_stem(images, skip), _by_stem(masks)
    if not found:
        raise LayoutError(f"{images}: no pictures.")
    alone = [path.name for stem, path in found.items() if name(stem) not in labels]
    if alone:
        raise LayoutError(f"{images}: {len(alone)} pictures without a mask in {masks} (first: {alone[0]}).")
    lonely = sorted(labels.keys() - {name(stem) for stem in found})
    if lonely:
        first = labels[lonely[0]].name
        warnings.warn(f"{masks}: {len(lonely)} masks without a picture (first: {first})", stacklevel=2)
    return pd.DataFrame(
        {"image": [str(p) for p in found.values()], "label": [str(labels[name(stem)]) for stem in found]}
    )


def _by_stem(folder: Path, skip: str = "") -> dict[str, Path]:
    """Name without suffix, in one form of Unicode, -> file, in the order of the names."""
    if not folder.is_dir():
        raise LayoutError(f"There is no folder {folder}.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = unicodedata.normalize("NFC", path.stem)
        hidden = path.name.startswith(".")
        if hidden or path.suffix.lower() not in PICTURES or (skip and stem.endswith(skip)):
            continue
        if stem in found:
            raise LayoutError(f"{folder}: which of {found[stem].name} and {path.name} is the set's?")
        found[stem] = path
    return found


def either(folder: Path, *names: str) -> Path:
    """The first of ``names`` that is a folder inside ``folder`` (copies of a set differ in them)."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise LayoutError(f"{folder} holds none of {', '.join(names)}.")


def _masks(folder: Path) -> Path:
    return either(folder, "masks", "mask", "GT")


def _images(folder: Path) -> Path:
    return either(folder, "images", "image", "Imgs")


def polyps(folder: Path) -> Tables:
    """PraNet's split of Kvasir-SEG and CVC-ClinicDB: TrainDataset/, TestDataset/{Kvasir,CVC-ClinicDB}/."""
    tables = {"train": pairs(_images(folder / "TrainDataset"), _masks(folder / "TrainDataset"))}
    for name in ("Kvasir", "CVC-ClinicDB"):
        test = folder / "TestDataset" / name
        tables[name] = pairs(_images(test), _masks(test))
    return tables


def isic_2017(folder: Path) -> Tables:
    """The challenge's folders, ``ISIC-2017_Training_Data`` and so on, its superpixels left out."""
    tables = {}
    for split, title in (("train", "Training"), ("val", "Validation"), ("test", "Test_v2")):
        images = folder / f"ISIC-2017_{title}_Data"
        masks = folder / f"ISIC-2017_{title}_Part1_GroundTruth"
        tables[split] = pairs(images, masks, name=lambda stem: f"{stem}_segmentation", skip="_superpixels")
    return tables


def camouflage(folder: Path) -> Tables:
    """SINet's folders: TrainDataset/{Imgs,GT} (CAMO and COD10K), TestDataset/{CAMO,COD10K,CHAMELEON}/."""
    tables = {"train": pairs(_images(folder / "TrainDataset"), _masks(folder / "TrainDataset"))}
    for name in ("CAMO", "COD10K", "CHAMELEON"):
        test = folder / "TestDataset" / name
        tables[name] = pairs(_images(test), _masks(test))
    return tables


def sbu(folder: Path) -> Tables:
    """SBUTrain4KRecoveredSmall/ and SBU-Test/, each with ShadowImages/ and ShadowMasks/."""
    parts = {"train": "SBUTrain4KRecoveredSmall", "test": "SBU-Test"}
    return {
        split: pairs(folder / part / "ShadowImages", folder / part / "ShadowMasks")
        for split, part in parts.items()
    }


def leaf_disease(folder: Path) -> Tables:
    """images/ and masks/, 588 pictures. No split is published: a seeded one here, 15 % for the test."""
    table = pairs(_images(folder), _masks(folder))
    if len(table) < 2:
        raise LayoutError(f"{folder}: one picture can't be split.")
    table = table.sample(frac=1.0, random_state=0, ignore_index=True)
    n_test = max(1, round(0.15 * len(table)))
    return {"train": table[n_test:].reset_index(drop=True), "test": table[:n_test]}


def massachusetts_roads(folder: Path) -> Tables:
    """Mnih's {train,valid,test}/{sat,map}/, or Kaggle's {train,val,test}/ with train_labels/ and so on.

    Kaggle's are inside tiff/ in some copies.
    """
    if (folder / "train" / "sat").is_dir():
        titles = {"train": "train", "val": "valid", "test": "test"}
        return {split: pairs(folder / t / "sat", folder / t / "map") for split, t in titles.items()}
    root = folder / "tiff" if (folder / "tiff").is_dir() else folder
    return {split: pairs(root / split, root / f"{split}_labels") for split in ("train", "val", "test")}


def trans10k_v1(folder: Path) -> Tables:
    """train/, validation/{easy,hard}/ and test/{easy,hard}/, each with images/ and masks/."""

    def read(part: Path) -> pd.DataFrame:
        return pairs(part / "images", part / "masks", name=lambda stem: f"{stem}_mask")

    tables = {"train": read(folder / "train")}
    for split, title in (("val", "validation"), ("test", "test")):
        levels = [read(folder / title / level) for level in ("easy", "hard")]
        tables[split] = pd.concat(levels, ignore_index=True)
    return tables


def trans10k_v2(folder: Path) -> Tables:
    """train/, validation/ and test/, each with images/ and masks_12/ (values 0 to 11)."""
    return {
        split: pairs(folder / title / "images", folder / title / "masks_12", name=lambda stem: f"{stem}_mask")
        for split, title in (("train", "train"), ("val", "validation"), ("test", "test"))
    }


def csv_tables(folder: Path) -> Tables:
    """train.csv, val.csv and test.csv with paths relative to the folder (our other benchmarks)."""
    tables = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.csv"
        if not path.is_file():
            raise LayoutError(f"There is no file {path}.")
        table = pd.read_csv(path)
        if lacking := {"image", "label"} - set(table.columns):
            raise LayoutError(f"{path} has no column {' and no '.join(sorted(lacking))}.")
        tables[split] = table.assign(**{c: [str(folder / p) for p in table[c]] for c in ("image", "label")})
    return tables


READERS: Mapping[str, Callable[[Path], Tables]] = {
    "polyps": polyps,
    "isic_2017": isic_2017,
    "camouflage": camouflage,
    "sbu": sbu,
    "leaf_disease": leaf_disease,
    "massachusetts_roads": massachusetts_roads,
    "trans10k_v1": trans10k_v1,
    "trans10k_v2": trans10k_v2,
    "csv_tables": csv_tables,
}
