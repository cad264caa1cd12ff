"""The tables of a fit: checked, labels decided, split into training and validation."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from semseg_automl.core.errors import DataError, suggest
from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import Samples, check_table
from semseg_automl.data.images import IntensityScaling, infer_scaling
from semseg_automl.data.known_labels import grown
from semseg_automl.data.labels import (
    LabelMap,
    LabelScan,
    class_counts,
    infer_label_map,
    presence,
    scan_masks,
    unknown_values,
)
from semseg_automl.data.near_duplicates import NearDuplicates, near_duplicates
from semseg_automl.data.split import check_fraction, split_samples

_LOG = get_logger("estimator")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Training and validation samples with what was learned about their labels and intensities.

    ``variety``: scenes over training pictures (``data.near_duplicates``), 0..1.
    """

    train: Samples
    val: Samples
    label_map: LabelMap
    scan: LabelScan
    scaling: IntensityScaling | None
    variety: float = 1.0


def prepare_tables(
    train_data: Any,
    y: Any,
    tuning_data: Any,
    *,
    image: str,
    label: str | Sequence[str],
    classes: Any,
    problem_type: str | None,
    ignore_index: Any,
    groups: Any,
    holdout_frac: float | None,
    seed: int,
    known: LabelMap | None = None,
) -> Tables:
    """Check the tables, decide the classes over all masks, split where no tuning_data is given.

    ``known``: the classes of a model that goes on, which are kept where ``classes`` says nothing.
    Raises DataError with every complaint at once.
    """
    if tuning_data is None:
        check_fraction(holdout_frac)  # before hours of reading
    samples = check_table(train_data, y, image=image, label=label, need_label=True, role="train_data")
    scan = scan_masks(samples.masks or (), index=list(samples.index))
    if classes is None and not isinstance(label, str) and y is None:
        classes = ["background", *label]  # a column for each class
    label_map = _label_map(scan, problem_type, classes, ignore_index, known)
    _log_rare_classes(scan, label_map)
    found = presence(scan, label_map)
    labels = _groups(groups, train_data, len(samples))
    labelled = np.flatnonzero(found.any(1))  # never empty: infer_label_map refuses such a table
    if len(labelled) < len(samples):
        left_out = len(samples) - len(labelled)
        _LOG.warning("%d training pictures have no labelled pixel and are left out.", left_out)
        samples, found = samples.subset(labelled), found[labelled]
        labels = None if labels is None else labels[labelled]
    if tuning_data is None:
        train_at, val_at = split_samples(samples, found, holdout_frac=holdout_frac, groups=labels, seed=seed)
        train, val = samples.subset(train_at), samples.subset(val_at)
        _LOG.info("Split: %d training and %d validation pictures.", len(train), len(val))
        _warn_of_missing_classes(found, train_at, val_at, label_map, grouped=labels is not None)
    else:
        train = samples
        val = check_table(tuning_data, image=image, label=label, need_label=True, role="tuning_data")
        _check_tuning_channels(samples, val)
        _check_tuning_labels(val, label_map)
    variety = 1.0
    if train is not val and len(samples) > 1:
        alike = near_duplicates(train.images, val.images, seed=seed)
        variety = alike.variety
        _warn_of_near_duplicates(alike, train, val)
    scaling = infer_scaling(samples.images, headers=samples.headers)
    return Tables(train=train, val=val, label_map=label_map, scan=scan, scaling=scaling, variety=variety)


def _label_map(
    scan: LabelScan, problem_type: str | None, classes: Any, ignore_index: Any, known: LabelMap | None
) -> LabelMap:
    """What the masks hold, or a model that goes on knows."""
    infer = partial(
        infer_label_map, scan, problem_type=problem_type, classes=classes, ignore_index=ignore_index
    )
    if known is None or classes is not None or problem_type not in (None, known.problem_type):
        return infer()
    return grown(known, scan, ignore_index, infer)


def _log_rare_classes(scan: LabelScan, label_map: LabelMap) -> None:
    counts = class_counts(scan, label_map).sum(0)
    rare = [n for n, c in zip(label_map.names, counts, strict=True) if 0 < c < 1e-4 * counts.sum()]
    if rare:
        _LOG.warning("Very rare classes (less than 0.01 %% of the pixels): %s.", ", ".join(rare))


def _warn_of_missing_classes(
    found: np.ndarray, train_at: np.ndarray, val_at: np.ndarray, label_map: LabelMap, *, grouped: bool
) -> None:
    """Say which classes a split could not put on both sides."""
    unit = "group" if grouped else "picture"
    for side, other in ((val_at, "validation"), (train_at, "training")):
        missing = found.any(0) & ~found[side].any(0)
        names = [name for name, gone in zip(label_map.names, missing, strict=True) if gone]
        if names:
            _LOG.warning(
                "Not in the %s pictures: %s. More %ss that show them are needed.",
                other,
                ", ".join(names),
                unit,
            )


def _warn_of_near_duplicates(found: NearDuplicates, train: Samples, val: Samples) -> None:
    """Say which validation pictures training has nearly seen: their scores flatter the model."""
    if not found.pairs:
        return
    shown = ", ".join(f"{val.index[v]!r} and {train.index[t]!r}" for t, v in found.pairs[:3])
    part = "" if found.looked_at == len(train) else f" (of {found.looked_at} that there was time to look at)"
    _LOG.warning(
        "%d of %d validation pictures nearly equal a training picture%s, such as rows %s. Scores flatter the "
        "model: pass groups= (video, patient, scene), so that what belongs together stays on one side.",
        len(found.pairs),
        len(val),
        part,
        shown,
    )


def _check_tuning_channels(train: Samples, val: Samples) -> None:
    widest = [max(header.channels for header in part.headers) for part in (train, val)]
    if max(widest) > 3 and widest[0] != widest[1]:
        raise DataError(
            f"tuning_data: its pictures have {widest[1]} channels, train_data's have {widest[0]}. "
            "Bring both to one number."
        )


def _check_tuning_labels(val: Samples, label_map: LabelMap) -> None:
    scan = scan_masks(val.masks or (), index=list(val.index))
    known = class_counts(scan, label_map)
    if not known.sum():
        raise DataError("tuning_data: no mask holds a pixel of a class that train_data has.")
    if unknown := unknown_values(scan, label_map):
        _LOG.warning(
            "tuning_data holds mask values that train_data never has: %s; they are ignored.", unknown[:10]
        )


def _groups(groups: Any, train_data: Any, n: int) -> np.ndarray | None:
    """The labels that ``groups`` stands for: an array as it is, or a column of the table."""
    if groups is None:
        return None
    if not isinstance(groups, str):
        labels = _one_each(groups)
        if len(labels) != n:
            raise DataError(f"groups has {len(labels)} labels for {n} pictures: give one for each row.")
        return labels
    if isinstance(train_data, str | os.PathLike):
        train_data = pd.read_csv(train_data, sep="\t" if str(train_data).lower().endswith(".tsv") else ",")
    columns = [str(c) for c in getattr(train_data, "columns", ())]
    if groups not in columns:
        raise DataError(
            f"groups={groups!r} is not a column of train_data (columns: {columns}).{suggest(groups, columns)}"
        )
    return np.asarray(train_data[groups], dtype=object)


def _one_each(groups: Any) -> np.ndarray:
    """Labels (N,) of objects, of which each may be a tuple."""
    if isinstance(groups, pd.Series | pd.DataFrame | np.ndarray):
        return np.asarray(groups, dtype=object).reshape(-1)
    items = list(groups)
    labels = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        labels[i] = item[0] if isinstance(item, list | np.ndarray) and len(item) == 1 else item
        if not isinstance(labels[i], Hashable):
            raise DataError(
                f"groups: the label of row {i} is a {type(item).__name__}; give texts or numbers."
            )
    return labels
