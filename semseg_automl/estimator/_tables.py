"""The tables of a fit: checked, labels decided, split into training and validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from semseg_automl.core.errors import DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import Samples, check_table
from semseg_automl.data.images import IntensityScaling, infer_scaling
from semseg_automl.data.labels import LabelMap, LabelScan, infer_label_map, presence, scan_masks
from semseg_automl.data.split import split_samples

_LOG = get_logger("estimator")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Training and validation samples with what was learned about their labels and intensities."""

    train: Samples
    val: Samples
    label_map: LabelMap
    scan: LabelScan
    scaling: IntensityScaling | None


def prepare_tables(
    train_data: Any,
    y: Any,
    tuning_data: Any,
    *,
    image: str,
    label: str,
    classes: Any,
    problem_type: str | None,
    ignore_index: Any,
    groups: Any,
    holdout_frac: float | None,
    seed: int,
) -> Tables:
    """Check the tables, decide the classes over all masks, split where no tuning_data is given.

    Raises DataError with every complaint at once.
    """
    samples = check_table(train_data, y, image=image, label=label, need_label=True, role="train_data")
    scan = scan_masks(samples.masks or (), index=list(samples.index))
    label_map = infer_label_map(scan, problem_type=problem_type, classes=classes, ignore_index=ignore_index)
    _log_empty_classes(scan, label_map)
    if tuning_data is None:
        labels = _groups(groups, train_data)
        train_at, val_at = split_samples(
            samples, presence(scan, label_map), holdout_frac=holdout_frac, groups=labels, seed=seed
        )
        train, val = samples.subset(train_at), samples.subset(val_at)
        _LOG.info("Split: %d training and %d validation pictures.", len(train), len(val))
    else:
        train = samples
        val = check_table(tuning_data, image=image, label=label, need_label=True, role="tuning_data")
        _check_tuning_labels(val, label_map)
    train = _without_unlabelled(train, label_map, scan, samples)
    return Tables(
        train=train, val=val, label_map=label_map, scan=scan, scaling=infer_scaling(list(samples.images))
    )


def _log_empty_classes(scan: LabelScan, label_map: LabelMap) -> None:
    counts = scan.counts(label_map.values).sum(0)
    rare = [n for n, c in zip(label_map.names, counts, strict=True) if 0 < c < 1e-4 * counts.sum()]
    if rare:
        _LOG.warning("Very rare classes (less than 0.01 %% of the pixels): %s.", ", ".join(rare))


def _check_tuning_labels(val: Samples, label_map: LabelMap) -> None:
    scan = scan_masks(val.masks or (), index=list(val.index))
    known = scan.counts(label_map.values)
    if not known.sum():
        raise DataError("tuning_data: no mask holds a pixel of a class that train_data has.")
    unknown = [v for v in scan.values if v not in label_map.values and v != label_map.ignore]
    if unknown:
        _LOG.warning(
            "tuning_data holds mask values that train_data never has: %s; they are ignored.", unknown[:10]
        )


def _without_unlabelled(train: Samples, label_map: LabelMap, scan: LabelScan, samples: Samples) -> Samples:
    """Training pictures with at least one labelled pixel; the others teach nothing."""
    labelled = scan.counts(label_map.values).sum(1) > 0
    position = {id(source): i for i, source in enumerate(samples.images)}
    keep = [k for k, source in enumerate(train.images) if labelled[position[id(source)]]]
    if not keep:
        raise DataError("Every pixel of every training mask is ignored: there is nothing to learn.")
    if len(keep) < len(train):
        _LOG.warning("%d training pictures have no labelled pixel and are left out.", len(train) - len(keep))
        return train.subset(keep)
    return train


def _groups(groups: Any, train_data: Any) -> Any:
    if not isinstance(groups, str):
        return groups
    columns = list(getattr(train_data, "columns", ()))
    if groups not in columns:
        raise DataError(f"groups={groups!r} is not a column of train_data (columns: {columns}).")
    return np.asarray(train_data[groups], dtype=object)
