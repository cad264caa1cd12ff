"""The classes of a table that a saved model goes on with: the model's own, and those that come new."""

from __future__ import annotations

from dataclasses import replace

from semseg_automl.core.log import get_logger
from semseg_automl.data.label_map import LabelMap
from semseg_automl.data.labels import palette_of
from semseg_automl.data.masks import LabelScan

_log = get_logger("data")


def grown(known: LabelMap, found: LabelMap, scan: LabelScan) -> LabelMap:
    """The classes of ``known``, in their order, then those of ``found`` that it lacks.

    ``found`` is what the masks of ``scan`` hold by themselves. It is the answer where the two can't be one: a
    binary model, colours beside integers, or two values (a thing and its background) that ``known`` does not
    have both.
    """
    of_two = found.problem_type == "binary" and not set(found.values) <= set(known.class_of)
    if known.problem_type == "binary" or known.colours != found.colours or of_two:
        return found
    spoken_of = {*known.class_of, known.ignore}
    new = [(v, n) for v, n in zip(found.values, found.names, strict=True) if v not in spoken_of]
    ignore = found.ignore if known.ignore is None and found.ignore not in known.class_of else known.ignore
    values = (*known.values, *(value for value, _ in new))
    names = (*known.names, *(name for _, name in new))
    absent = [name for value, name in zip(known.values, known.names, strict=True) if value not in scan.pixels]
    if absent or new:
        _log.info(
            "The saved model's classes go on: %s%s%s.",
            ", ".join(known.names),
            f"; new: {', '.join(names[known.n_classes :])}" if new else "",
            f"; in no mask of this table: {', '.join(absent)}" if absent else "",
        )
    return replace(
        known,
        values=values,
        names=names,
        ignore=ignore,
        palette=palette_of(scan, [*values, ignore]) or known.palette,
    )
