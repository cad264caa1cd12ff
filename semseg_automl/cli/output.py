"""How the command line speaks: text, tables and JSON on stdout, complaints on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from semseg_automl.core.config import hyperparameter_names

if TYPE_CHECKING:
    import pandas as pd


def say(text: str = "") -> None:
    """Write a line to stdout."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write a line to stderr."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(f"{text}\n")
    except UnicodeEncodeError:  # a console without these characters
        stream.write(text.encode("ascii", "backslashreplace").decode("ascii") + "\n")
    stream.flush()  # stdout and stderr in the order in which they were written


def as_json(value: Any) -> str:
    """JSON text; NaN and infinities become null."""
    return json.dumps(_plain(value), indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value  # numpy's numbers
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One dict per row of a table, in its order."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(k): v for k, v in row.items()} for row in rows]


def table(frame: pd.DataFrame) -> str:
    """A table as aligned text; what is not known is a dash."""
    whole = [k for k, dtype in frame.dtypes.items() if str(dtype) == "Int64"]  # for which na_rep is not asked
    frame = frame.assign(**{str(k): frame[k].astype(object).where(frame[k].notna()) for k in whole})
    return frame.to_string(index=False, na_rep="-", float_format="{:.4g}".format)


def leaderboard_table(frame: pd.DataFrame) -> str:
    """The leaderboard for a terminal: of the hyperparameters, those in which the models differ."""
    known = {name: frame[name].dropna().map(str) for name in hyperparameter_names() if name in frame}
    differing = [name for name, values in known.items() if values.nunique() > 1]
    columns = [
        "model",
        *[name for name in ("score_val", "score_test") if name in frame],
        "state",
        *differing,
        "fit_time",
        "seconds_per_step",
        "n_trainable",
        "reason",
    ]
    return table(frame[columns])
