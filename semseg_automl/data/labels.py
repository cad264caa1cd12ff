"""Which raw mask values are classes: decided once, over the whole table, and logged.

The front door to labels: :class:`LabelMap`, :func:`read_raw_mask` and :func:`scan_masks` are
re-exported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semseg_automl.core.errors import ConfigError, DataError, unknown_name
from semseg_automl.core.log import get_logger
from semseg_automl.data.blurred import refuse_edges, refuse_noise
from semseg_automl.data.class_mapping import ClassMapping
from semseg_automl.data.complaints import Complaints
from semseg_automl.data.label_map import IGNORE, PROBLEM_TYPES, LabelMap, as_value
from semseg_automl.data.masks import LabelScan, Value, read_raw_mask, scan_masks

__all__ = [
    "IGNORE",
    "LabelMap",
    "LabelScan",
    "Value",
    "class_counts",
    "infer_label_map",
    "presence",
    "read_mask",
    "read_raw_mask",
    "scan_masks",
    "unknown_values",
]

Names = list[str] | None
Given = Names | ClassMapping

_log = get_logger("data")
_BLACK: tuple[Value, Value] = (0, (0, 0, 0))
_MANY_VALUES = 64


def read_mask(source: Any, label_map: LabelMap) -> np.ndarray:
    """Class indices (H, W) int16 of a mask: :func:`read_raw_mask`, then :meth:`LabelMap.encode`."""
    return label_map.encode(read_raw_mask(source))


def presence(scan: LabelScan, label_map: LabelMap) -> np.ndarray:
    """(N, K) bool: which of K classes occur in which of N masks."""
    return class_counts(scan, label_map) > 0


def class_counts(scan: LabelScan, label_map: LabelMap) -> np.ndarray:
    """Pixels (N, K) int64 of each of K classes in each of N masks, merged values included."""
    out = np.zeros((len(scan), label_map.n_classes), np.int64)
    flags = scan.boolean or (False,) * len(scan)
    for row, counts, boolean in zip(out, scan.rows, flags, strict=True):
        for value, count in counts.items():
            k = label_map.index_of(value, boolean=boolean)
            if k is not None and k != IGNORE:
                row[k] += count
    return out


def unknown_values(scan: LabelScan, label_map: LabelMap) -> list[Value]:
    """Values of a table's masks that a label map does not know, ascending."""
    flags = scan.boolean or (False,) * len(scan)
    rows = zip(scan.rows, flags, strict=True)
    return sorted({v for row, flag in rows for v in row if label_map.index_of(v, boolean=flag) is None})


def infer_label_map(
    scan: LabelScan,
    *,
    problem_type: str | None = None,
    classes: Sequence[str] | Mapping[Any, str | None] | None = None,
    ignore_index: Any = "auto",
) -> LabelMap:
    """Decide a table's classes from the values its masks hold, and log the decision.

    Parameters
    ----------
    scan : LabelScan
    problem_type : "binary", "multiclass" or None
        None: binary if there are two classes and the first is 0 or black, else multiclass.
    classes : None, list of names, or mapping raw value, colour or range -> name or None
        None: every value that occurs, ascending. A list names the values 0..K-1 if all that occur are
        among them, else the values that occur, ascending; one name for two values is the foreground's.
        A mapping fixes values and their order (a binary problem's first is the background). Values of
        one name are one class, written with the first of them; None: pixels of no class, ignored.
        ``range(128, 256)`` stands for all its values (thresholding), written with its commonest.
    ignore_index : "auto", None, int or (r, g, b)
        "auto": 255 is ignored when other non-zero values occur in the table, unless ``classes`` names
        it; where the values are a subset of {0, 255} it is the foreground. Colours: none is ignored.

    Returns
    -------
    LabelMap
        Always at least two classes: where only one value occurs, its missing counterpart is added.

    Raises
    ------
    DataError
        No mask, nothing but ignored pixels, more than two values in a binary problem, values that
        ``classes`` does not name, names that don't fit the values; noise around 0 and 255, or palettes
        that contradict each other, where ``classes`` is no mapping that says what to do about it.
    ConfigError
        Arguments of a wrong kind.
    """
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        raise unknown_name("problem_type", problem_type, PROBLEM_TYPES)
    if not scan.values:
        raise DataError("No classes can be found: the table has no masks.")
    given = _check_classes(classes)
    ignore = _choose_ignore(scan.values, ignore_index, given)
    present = [v for v in scan.values if v != ignore]
    if not present:
        raise DataError(
            f"Every pixel of all {len(scan)} masks has the ignored value {ignore!r}. "
            "Pass ignore_index=None, or another value, if it is a class."
        )
    merged: tuple[tuple[Value, int], ...] = ()
    if isinstance(given, ClassMapping):
        values, names, merged = _from_mapping(present, given, scan)
    else:
        if scan.conflict is not None:
            raise DataError(scan.conflict)
        refuse_noise(scan)
        if given is None and isinstance(ignore_index, str):
            refuse_edges(scan)
        values, names = _from_table(present, given, problem_type)
    problem_type = problem_type or ("binary" if len(values) == 2 and values[0] in _BLACK else "multiclass")
    _check_binary(problem_type, values, scan)
    names = names or _default_names(values, problem_type)
    label_map = LabelMap(
        problem_type=problem_type,
        names=tuple(names),
        values=tuple(values),
        ignore=ignore,
        merged=tuple((value, k) for value, k in merged if value != ignore),
        palette=_palette(scan, [*values, ignore]),
    )
    _announce(label_map)
    return label_map


def _check_classes(classes: Any) -> Given:
    if classes is None:
        return None
    if isinstance(classes, Mapping):
        return ClassMapping.of(classes)
    if isinstance(classes, str) or not isinstance(classes, (Sequence, np.ndarray)):
        raise ConfigError(
            f"classes is None, a list of names or a mapping raw value -> name, got {classes!r}."
        )
    names = [str(name) for name in classes]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"classes needs at least one name and no name twice, got {names}.")
    return names


def _choose_ignore(values: Sequence[Value], ignore_index: Any, given: Given) -> Value | None:
    if ignore_index is None:
        return None
    if not isinstance(ignore_index, str):
        return _like(as_value(ignore_index), isinstance(values[0], tuple))
    if ignore_index != "auto":
        raise ConfigError(f"ignore_index is 'auto', None, an integer or (r, g, b), got {ignore_index!r}.")
    if 255 not in values or set(values) <= {0, 255}:
        return None
    if isinstance(given, ClassMapping):
        return None if 255 in given else 255
    others = [v for v in values if v != 255]
    if given is not None and not _fits(others, given) and len(given) == len(values):
        return None  # as many names as values with 255: the names make it a class
    return 255


def _like(value: Value, colours: bool) -> Value:
    """An int as the grey colour it is, or the reverse, to match a table's kind of values."""
    if colours and isinstance(value, int) and 0 <= value <= 255:
        return value, value, value
    if not colours and isinstance(value, tuple) and value[0] == value[1] == value[2]:
        return value[0]
    return value


def _from_mapping(
    present: list[Value], given: ClassMapping, scan: LabelScan
) -> tuple[list[Value], Names, tuple[tuple[Value, int], ...]]:
    colours = isinstance(scan.values[0], tuple)
    own = {name: _like(value, colours) for name, value in given.values(scan).items()}
    merged = tuple((_like(value, colours), k) for value, k in given.merged(given.values(scan)))
    spoken_of = {*own.values(), *(value for value, _ in merged)}
    rest = [v for v in present if v not in spoken_of]
    if len(own) == 1 and len(rest) == 1 and "background" not in own:
        own, rest = {"background": rest[0], **own}, []
        merged = tuple((value, k if k == IGNORE else k + 1) for value, k in merged)
    complaints = Complaints("The masks")
    for value in rest:
        rows = ", ".join(repr(label) for label in scan.rows_with(value)[:5])
        text = f"{value!r} in {scan.pictures[value]} masks, first rows {rows}"
        complaints.add(
            "unknown class: values that classes does not name (name them, or pass ignore_index)", text
        )
    complaints.raise_if_any()
    dropped = {value for value, k in merged if k == IGNORE}
    if not set(present) - dropped:
        raise DataError("Every value that the masks hold is dropped by classes: name at least one of them.")
    if len(own) == 1 and _BLACK[colours] in {value for value, _ in merged}:
        raise ConfigError(f"classes leaves one class, {next(iter(own))!r}: a second one is needed.")
    if any(isinstance(v, tuple) != colours for v in spoken_of):
        raise DataError(
            f"classes names {_short(sorted(spoken_of, key=str))}, but the masks hold "
            f"{'colours' if colours else 'integers'}."
        )
    for k, (name, value) in enumerate(own.items()):
        if not any(v in scan.pixels for v in (value, *(v for v, at in merged if at == k))):
            _log.warning("Class %r (value %r) occurs in no mask of the table.", name, value)
    values, names = _at_least_two(list(own.values()), list(own))
    if len(values) > len(own) and values[0] != next(iter(own.values())):  # a background came first
        merged = tuple((value, k if k == IGNORE else k + 1) for value, k in merged)
    return values, names, tuple((value, k) for value, k in merged if value not in values)


def _palette(scan: LabelScan, values: Sequence[Value | None]) -> tuple[int, ...] | None:
    """The masks' palette, as far as the values that are written need it."""
    largest = max((v for v in values if isinstance(v, int)), default=256)
    if scan.palette is None or largest > 255:
        return None
    return scan.palette[: 3 * (largest + 1)]


def _is_index(values: Sequence[Value], n: int) -> bool:
    return all(isinstance(v, int) and 0 <= v < n for v in values)


def _fits(present: Sequence[Value], names: Names) -> bool:
    return names is not None and (_is_index(present, len(names)) or len(present) == len(names))


def _from_table(
    present: list[Value], names: list[str] | None, problem_type: str | None
) -> tuple[list[Value], Names]:
    if names is None:
        return _at_least_two(present, None)
    if len(names) == 1 and len(present) <= 2 and problem_type != "multiclass":
        return _at_least_two(present, None)[0], [
            "background" if names[0] != "background" else "rest",
            names[0],
        ]
    if len(names) > 1 and _is_index(present, len(names)):
        return list(range(len(names))), names
    if len(names) == len(present):
        return _at_least_two(present, names)
    raise DataError(
        f"classes has {len(names)} names, but the masks hold {len(present)} values: {_short(present)}. "
        "Give one name per value in ascending order, or a mapping raw value -> name."
    )


def _at_least_two(values: list[Value], names: list[str] | None) -> tuple[list[Value], Names]:
    """Add the missing counterpart where only one value occurs: a background, or a foreground to only 0."""
    if len(values) > 1:
        return values, names
    only = values[0]
    if only in _BLACK:
        _log.warning("The masks hold nothing but %r: there is no foreground to learn.", only)
        return [only, (255, 255, 255) if isinstance(only, tuple) else 1], names and [*names, "foreground"]
    _log.warning("The masks hold nothing but %r: there is no background to learn from.", only)
    return [(0, 0, 0) if isinstance(only, tuple) else 0, only], names and ["background", *names]


def _check_binary(problem_type: str, values: list[Value], scan: LabelScan) -> None:
    if problem_type == "binary" and len(values) != 2:
        hint = " Many values often come from masks saved as JPEG or resized." if len(scan.values) > 8 else ""
        raise DataError(
            f"problem_type='binary' needs two values in the masks, found {len(values)}: {_short(values)}. "
            f"Pass problem_type='multiclass', or ignore_index= for a value that is no class.{hint}"
        )


def _default_names(values: list[Value], problem_type: str) -> list[str]:
    return ["background", "foreground"] if problem_type == "binary" else [str(v) for v in values]


def _short(values: Sequence[Value]) -> str:
    shown = ", ".join(str(v) for v in values[:12])
    return shown if len(values) <= 12 else f"{shown}, ... ({len(values)} in all)"


def _announce(label_map: LabelMap) -> None:
    pairs = [
        f"{v} = {n}" if str(v) != n else n for v, n in zip(label_map.values, label_map.names, strict=True)
    ]
    shown = ", ".join(pairs[:20]) + (", ..." if len(pairs) > 20 else "")
    ignored = "nothing" if label_map.ignore is None else repr(label_map.ignore)
    _log.info("Labels: %s, %d classes: %s; ignored: %s.", label_map.problem_type, len(pairs), shown, ignored)
    if len(pairs) > _MANY_VALUES:
        _log.warning(
            "The masks hold %d different values. Masks saved as JPEG or resized with smoothing hold values "
            "that no one drew; pass classes= to say which are meant.",
            len(pairs),
        )
