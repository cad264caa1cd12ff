"""The paper's data sets: reader, classes, metrics, and what differs from the preset ``conv_lora_paper``.

Epochs, rates, losses and the metric that a state is chosen by are those of the script that the authors
released (AutoGluon, ``examples/automm/Conv-LoRA/run_semantic_segmentation.py``). Trans10K is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SALIENCY = ("s_measure", "e_measure", "weighted_f_measure", "mae")
OVERLAP = ("iou", "dice")
TWO_VALUES = ("background", "foreground")
BINARY = {range(0, 128): "background", range(128, 256): "foreground"}
"""Masks of 0 and 255, some saved with a loss (Kvasir-SEG's hold 0 to 7 and 248 to 255): see ``masks.py``."""
LEAVES = {"learning_rate": 3e-4, "decoder_learning_rate": 3e-4}
ROADS = LEAVES | {"max_epochs": 20}


@dataclass(frozen=True, kw_only=True)
class PaperSet:
    """One data set of the paper.

    Attributes
    ----------
    reader : a name of ``readers.READERS``.
    folder : its name under the folder of data sets.
    classes : names in the order of the masks' values, or raw value, colour or range -> name.
    metrics : of the test scores.
    eval_metric : by which the state of a training is chosen on its validation pictures; None: the default.
    hyperparameters : over the preset's; ``max_epochs`` among them where it is not the preset's 30.
    source : where the set is published.
    note : what is not as in the paper, or None.
    """

    reader: str
    folder: str
    metrics: tuple[str, ...]
    source: str
    classes: Any = field(default_factory=BINARY.copy)
    problem_type: str = "binary"
    eval_metric: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


TRANS10K_V2 = (
    "background",
    "shelf",
    "jar",
    "freezer",
    "window",
    "door",
    "eyeglass",
    "cup",
    "wall",
    "bowl",
    "bottle",
    "box",
)
LOCAL = "a part of it, or its own split, as prepared for the benchmarks in $SEMSEG_AUTOML_DATA"

SETS: dict[str, PaperSet] = {
    "polyps": PaperSet(
        reader="polyps",
        folder="polyps",
        metrics=SALIENCY,
        eval_metric="s_measure",
        source="Kvasir-SEG (Jha et al., 2020) and CVC-ClinicDB (Bernal et al., 2015), in PraNet's split",
    ),
    "isic_2017": PaperSet(
        reader="isic_2017",
        folder="isic_2017",
        metrics=OVERLAP,
        source="ISIC 2017, challenge.isic-archive.com/data",
    ),
    "camouflage": PaperSet(
        reader="camouflage",
        folder="camouflage",
        metrics=SALIENCY,
        source="CAMO (Le et al., 2019), COD10K (Fan et al., 2020), CHAMELEON, in SINet's folders",
        eval_metric="s_measure",
        hyperparameters={"max_epochs": 20},
    ),
    "sbu": PaperSet(
        reader="sbu",
        folder="SBU-shadow",
        metrics=("ber",),
        source="SBU shadow (Vicente et al., 2016)",
        eval_metric="ber",
        hyperparameters={"loss": "balanced_bce", "max_epochs": 10},
    ),
    "leaf_disease": PaperSet(
        reader="leaf_disease",
        folder="leaf_disease_segmentation",
        metrics=OVERLAP,
        source="Kaggle, leaf disease segmentation dataset, 588 pictures",
        classes=TWO_VALUES,
        hyperparameters=LEAVES,
        note="the paper's split is not published: a seeded one",
    ),
    "massachusetts_roads": PaperSet(
        reader="massachusetts_roads",
        folder="massachusetts_roads",
        metrics=OVERLAP,
        source="Mnih, 2013",
        hyperparameters=ROADS,
    ),
    "trans10k_v1": PaperSet(
        reader="trans10k_v1",
        folder="Trans10K",
        metrics=("mean_iou",),
        source="Xie et al., ECCV 2020",
        problem_type="multiclass",
        classes={(0, 0, 0): "background", (255, 0, 0): "things", (255, 255, 255): "stuff"},
    ),
    "trans10k_v2": PaperSet(
        reader="trans10k_v2",
        folder="Trans10K_cls12",
        metrics=("mean_iou",),
        source="Xie et al., IJCAI 2021",
        problem_type="multiclass",
        classes=TRANS10K_V2,
    ),
    "polyp_clinicdb": PaperSet(
        reader="csv_tables",
        folder="polyp_clinicdb",
        metrics=SALIENCY,
        eval_metric="s_measure",
        source="CVC-ClinicDB",
        classes=None,
        note=f"{LOCAL}: CVC-ClinicDB alone, split by video sequence",
    ),
    "leaf_disease_100": PaperSet(
        reader="csv_tables",
        folder="leaf_disease",
        metrics=OVERLAP,
        source="100 of the 588 pictures",
        classes=None,
        hyperparameters=LEAVES,
        note=LOCAL,
    ),
    "roads_96": PaperSet(
        reader="csv_tables",
        folder="roads_massachusetts",
        metrics=OVERLAP,
        source="96 of the 1171 pictures, cut to 750 x 750",
        classes=None,
        hyperparameters=ROADS,
        note=LOCAL,
    ),
}
