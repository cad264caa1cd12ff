"""What the values of a set's masks mean, looked up in the masks: copies of a set differ in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.paper.readers import LayoutError, Tables
from benchmarks.paper.sets import BINARY
from semseg_automl.data.labels import class_counts, infer_label_map, scan_masks


def classes_of(classes: Any, tables: Tables) -> Any:
    """The estimator's ``classes`` for a set's tables.

    The threshold ``BINARY`` is for masks with more than two values in all; where there are two, the same in
    every table (0 and 255, 0 and 1, one bit), the larger one is the foreground. Everything else is passed on.

    Raises
    ------
    LayoutError
        Tables whose two values differ, or masks that the threshold would leave without foreground though they
        hold more than 0, such as masks of 0 and 1 among masks of 0 and 255.
    """
    if classes != BINARY:
        return list(classes) if isinstance(classes, tuple) else classes
    masks = [label for table in tables.values() for label in table["label"]]
    scan = scan_masks(masks, index=masks)
    if len(scan.values) <= 2:
        apart = {name: scan_masks(list(table["label"])).values for name, table in tables.items()}
        if len({values for values in apart.values() if len(values) == 2}) > 1:
            raise LayoutError(f"The tables' masks hold different values: {apart}. Save all as 0 and 255.")
        return list(BINARY.values())
    foreground = class_counts(scan, infer_label_map(scan, problem_type="binary", classes=BINARY))[:, 1]
    faint = [
        f"{label} (up to {_largest(row)})"
        for label, row, pixels in zip(scan.index, scan.rows, foreground, strict=True)
        if pixels == 0 and _largest(row)
    ]
    if faint:
        raise LayoutError(
            f"{len(faint)} of {len(masks)} masks hold no value from 128 on, but more than 0, first "
            f"{', '.join(faint[:3])}: they would be all background. Save the set's masks as 0 and 255."
        )
    return BINARY


def _largest(row: Mapping[Any, int]) -> int:
    return max(int(value) for value in row)
