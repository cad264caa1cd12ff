"""The leaderboard as a DataFrame, and the summary of a fit as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from semseg_automl.core.config import RunConfig, hyperparameter_names
from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import check_table
from semseg_automl.estimator.baseline import NAME as BASELINE
from semseg_automl.estimator.baseline import majority_score

if TYPE_CHECKING:
    from semseg_automl.core.results import ModelRow
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_LOG = get_logger("estimator")
_TIMES = ("fit_time", "seconds_per_step", "predict_time", "n_trainable", "peak_memory_mb")


def leaderboard_frame(seg: SemanticSegmentor, data: Any = None) -> pd.DataFrame:
    """One row per model, best validation score first; failed models last."""
    frame = pd.DataFrame([_flat(row) for row in seg._rows])
    columns = ["model", "score_val", "state", "reason", *hyperparameter_names(), *_TIMES, "worker"]
    if data is not None:
        frame["score_test"] = [_test_score(seg, row, data) for row in seg._rows]
        columns.insert(2, "score_test")
    frame = _whole_numbers(frame.reindex(columns=columns))
    return frame.sort_values(
        "score_val", ascending=False, na_position="last", kind="stable", ignore_index=True
    )


def _whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Hyperparameters that are integers, as such: the baseline has none, which would make floats of them."""
    whole = [name for name, value in RunConfig().flat().items() if type(value) is int]
    return frame.astype({k: "Int64" for k in whole if pd.api.types.is_float_dtype(frame[k])})


def _flat(row: ModelRow) -> dict[str, Any]:
    values = {k: v for k, v in vars(row).items() if k != "config"}
    return {**dict(row.config), **values}


def _test_score(seg: SemanticSegmentor, row: ModelRow, data: Any) -> float:
    """The kept model and the baseline can be scored; other models' weights were not kept."""
    if row.model == seg._summary.get("best_model"):
        return seg.score(data)
    if row.model == BASELINE:
        label_map = seg._model.label_map
        samples = check_table(data, image=seg.image, label=seg.label, need_label=True, role="data")
        name = row.reason.removeprefix("class ").removesuffix(" everywhere")
        return majority_score(samples, label_map, label_map.names.index(name), seg.eval_metric_)
    return math.nan


def summary_text(summary: Mapping[str, Any]) -> None:
    """Log the summary in a few plain lines."""
    for line in summary_lines(summary):
        _LOG.info(line)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Plan, outcome and time use, a line each."""
    if not summary:
        return ["No summary is stored beside this model."]
    seconds = summary["seconds"]
    where = " on ".join(summary[key] for key in ("precision", "device") if key in summary)  # older: no device
    used = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return [
        *(f"Plan: {reason}." for reason in summary["plan"]),
        f"Models trained: {summary['n_models']}; kept: {summary['best_model']} "
        f"({summary['eval_metric']} {summary['score_val']:.4f} on validation, {summary['steps']} steps, "
        f"{summary['epochs']:.1f} epochs, {where}).",
        f"Time: {used}.",
    ]
