"""The classes of a table that a saved model goes on with: the model's own, and those that come new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.data.label_map import IGNORE, LabelMap, as_value
from semseg_automl.data.masks import LabelScan, Value

_log = get_logger("data")


def grown(known: LabelMap, scan: LabelScan, ignore_index: Any, infer: Callable[[], LabelMap]) -> LabelMap:
    """The classes of ``known``, in their order, then those that the masks of ``scan`` show besides.

    ``infer()`` is what the masks are by themselves. It is the answer where the two can't be one: colours
    beside integers, other values than a binary model's, or two values (a thing and its background) that
    ``known`` does not have both.

    Raises
    ------
    ConfigError
        ``ignore_index`` is a class of ``known``.
    """
    asked = not isinstance(ignore_index, str)
    ignore = known.ignore if not asked else None if ignore_index is None else as_value(ignore_index)
    if ignore is not None and known.class_of.get(ignore, IGNORE) != IGNORE:
        raise ConfigError(
            f"ignore_index={ignore_index!r} is a class of the saved model. Say with classes= which classes "
            "there are."
        )
    known = replace(known, merged=tuple((value, k) for value, k in known.merged if value != ignore))
    values, of_black_and_white = set(scan.values) - {ignore}, set(scan.values) == {0, 255}
    if of_black_and_white and known.ignore == 255 and not asked:
        return infer()  # else no pixel of a thing would be left
    if values <= set(known.class_of) and any(known.class_of[v] != IGNORE for v in values):
        return _told(replace(known, ignore=ignore, palette=_palette(known, scan)), known, scan)
    found = infer()
    if known.problem_type == found.problem_type == "binary":
        return replace(found, names=known.names)
    if "binary" in (known.problem_type, found.problem_type) or known.colours != found.colours:
        return found
    if asked or (ignore is None and found.ignore not in known.class_of):
        ignore = found.ignore
    new = [v for v in found.values if v not in known.class_of and v != ignore]
    names = (*known.names, *(_free(found.names[found.values.index(v)], v, known) for v in new))
    both = replace(known, values=(*known.values, *new), names=names, ignore=ignore)
    return _told(replace(both, palette=_palette(known, scan)), known, scan)


def _free(name: str, value: Value, known: LabelMap) -> str:
    """A new class's name, other than those that are taken."""
    return f"{name} (value {value})" if name in known.names else name


def _palette(known: LabelMap, scan: LabelScan) -> tuple[int, ...] | None:
    """The model's colours, and those of the masks for values beyond them."""
    own, theirs = known.palette or (), scan.palette or ()
    return (*own, *theirs[len(own) :]) or None


def _told(label_map: LabelMap, known: LabelMap, scan: LabelScan) -> LabelMap:
    """The label map, logged."""
    names = label_map.names[known.n_classes :]
    absent = [n for v, n in zip(known.values, known.names, strict=True) if v not in scan.pixels]
    _log.info(
        "The saved model's classes go on: %s%s%s.",
        ", ".join(known.names),
        f"; new: {', '.join(names)}" if names else "",
        f"; in no mask of this table: {', '.join(absent)}" if absent else "",
    )
    return label_map
