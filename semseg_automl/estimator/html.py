"""HTML of a fitted model, everything from outside escaped: what a notebook shows, and parts of the report."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from semseg_automl.estimator.colours import class_colours
from semseg_automl.metrics.registry import score_name

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_SHOWN_MODELS = 8
_SHOWN_CLASSES = 30


def escape(value: Any) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


def number(value: Any, digits: int = 4) -> str:
    """A float with four decimals or four figures, whole numbers with thin groups, "-" for NaN and None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:,.1f}"


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """A table; a cell that is a :class:`Safe` is HTML already, all others are escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Safe(str):
    """HTML that this module made."""

    __slots__ = ()


def _cell(value: Any) -> str:
    return value if isinstance(value, Safe) else escape(number(value))


def swatch(colour: Iterable[int]) -> Safe:
    """A little square in a class's colour, (r, g, b) of 0..255."""
    r, g, b = (int(c) for c in colour)
    return Safe(
        f'<span style="display:inline-block;width:1em;height:1em;border:1px solid #888;'
        f'background:rgb({r},{g},{b})"></span>'
    )


def bullets(lines: Iterable[str]) -> str:
    """A list of lines."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def classes_table(names: Sequence[str], values: Sequence[Any]) -> str:
    """Colour, name and raw mask value of the first 30 classes."""
    colours = class_colours(len(names))
    rows = [(swatch(c), n, str(v)) for c, n, v in zip(colours, names, values, strict=True)]
    more = "" if len(rows) <= _SHOWN_CLASSES else f"<p>and {len(rows) - _SHOWN_CLASSES} more</p>"
    return table(rows[:_SHOWN_CLASSES], ("", "class", "mask value")) + more


def models_table(board: pd.DataFrame, columns: Mapping[str, str], limit: int) -> str:
    """The first rows of a leaderboard; ``columns`` maps its columns to headings."""
    kept = board[list(columns)].to_dict("records")
    more = "" if len(kept) <= limit else f"<p>and {len(kept) - limit} more</p>"
    rows = [[v if c == "score_val" else _short(v) for c, v in row.items()] for row in kept[:limit]]
    return table(rows, list(columns.values())) + more


def _short(value: Any) -> Any:
    """Floats that are not scores: four figures, or whole (a column with gaps holds 8 as 8.0)."""
    if not isinstance(value, float) or math.isnan(value):
        return value
    return int(value) if value.is_integer() else f"{value:.4g}"


def fitted_html(seg: SemanticSegmentor) -> str:
    """Scores, models, classes and plan of a fitted segmentor, for a notebook's cell."""
    summary = seg.fit_summary(show=False)
    board = seg.leaderboard()
    name = score_name(seg.eval_metric_, seg.problem_type_)
    scores = {name: seg.best_score_} | dict(summary.get("metrics_val", {}))
    parts = [
        f"<b>{escape(name)} {number(seg.best_score_)}</b> on validation; {seg.n_classes_} "
        f"classes, {escape(seg.problem_type_)}; model in <code>{escape(seg.path_)}</code>",
        _folded("Scores on validation", table(scores.items(), ("metric", "value"))),
        _folded(
            "Models",
            models_table(
                board,
                {"model": "model", "score_val": seg.eval_metric_, "state": "state", "fit_time": "seconds"},
                _SHOWN_MODELS,
            ),
        ),
        _folded("Classes", classes_table([str(n) for n in seg.classes_], seg.class_values_)),
        _folded("Plan", bullets(f"{reason}." for reason in summary.get("plan", ()))),
    ]
    return f'<div class="semseg-automl" style="margin-top:.5em">{"".join(parts)}</div>'


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"
