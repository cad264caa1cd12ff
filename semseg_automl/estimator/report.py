"""One HTML page about a model, with everything in it: plan, scores, models, curves, confusion, pictures."""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from semseg_automl import __version__
from semseg_automl.artifacts.layout import replace_file
from semseg_automl.core.config import hyperparameter_names
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.data.frame import check_table
from semseg_automl.estimator._drawing import Display, thumbnail, thumbnail_mask
from semseg_automl.estimator._masks_shown import worst_first
from semseg_automl.estimator._use import Measured, measure
from semseg_automl.estimator.displays import (
    ConfusionMatrixDisplay,
    ErrorGalleryDisplay,
    LearningCurveDisplay,
    MaskDisplay,
    SearchDisplay,
)
from semseg_automl.estimator.html import bullets, classes_table, escape, models_table, table
from semseg_automl.metrics.registry import score_name

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_LONGEST = (256, 192, 128, 96, 64)  # side of a picture in the gallery, in pixels; the first that fits
_MOST_BYTES = 4_400_000  # of the gallery
_MOST_MODELS = 100
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #eee; } th { color: #555; }
.wide { overflow-x: auto; } .side { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
.plot { max-width: 100%; height: auto; } code { background: #f4f4f4; overflow-wrap: anywhere; }
figure { margin: 0 0 1rem; display: flex; flex-wrap: wrap; gap: .4rem; align-items: flex-start; }
figcaption { width: 9rem; font-size: .85rem; white-space: pre-line; overflow-wrap: anywhere; }
figure div { font-size: .75rem; color: #555; width: 13rem; }
figure img { width: 100%; height: auto; display: block; }
"""


def write_report(seg: SemanticSegmentor, path: Any, data: Any = None, y: Any = None, *, n: int = 12) -> Path:
    """See ``SemanticSegmentor.report``."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ConfigError(f"n (--pictures) must be a number of pictures of at least 0, got {n!r}.")
    file = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
    if file.is_dir() or not file.parent.is_dir():
        problem = "is a folder" if file.is_dir() else f"lies in no folder: {file.parent} is not there"
        raise ArtifactError(f"report: path={str(path)!r} {problem}. Pass the name of a new .html file.")
    sections = [_model(seg), _plan(seg), _models(seg)]
    if data is not None:
        found = measure(seg, data, y, _metrics(seg))
        sections += [_scores(seg, found), _confusion(seg, found)]
        if n:
            sections.append(_gallery(seg, _with_masks(seg, data, y), found, n))
    title = f"Report on {escape(seg.path_.name)}"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        f"{''.join(sections)}<footer><p>semseg-automl {__version__}, {time.strftime('%Y-%m-%d %H:%M')}</p>"
        "</footer></body></html>\n"
    )
    try:
        replace_file(file, page.encode())
    except OSError as error:
        raise ArtifactError(f"report: {file} can't be written: {error}") from error
    return file


def _metrics(seg: SemanticSegmentor) -> list[str]:
    """The default report's metrics with the eval metric first."""
    usual = ("iou", "dice", "pixel_accuracy", "ber", "mae")
    names = usual if seg.problem_type_ == "binary" else ("mean_iou", "dice", "pixel_accuracy")
    return list(dict.fromkeys((seg.eval_metric_, *names)))


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _model(seg: SemanticSegmentor) -> str:
    summary, info = seg.fit_summary(show=False), seg._model.info
    facts = {
        "folder": seg.path_,
        "problem": f"{seg.problem_type_}, {seg.n_classes_} classes",
        "backbone": seg._model.weights.name,
        "kept model": summary.get("best_model"),
        f"{score_name(seg.eval_metric_, seg.problem_type_)} on validation": seg.best_score_,
        "training pictures": info.get("n_train"),
        "validation pictures": info.get("n_val"),
        "trained parameters": summary.get("parameters", {}).get("trainable"),
        "seconds": summary.get("seconds", {}).get("total"),
    }
    classes = classes_table([str(name) for name in seg.classes_], seg.class_values_)
    scores = table(summary.get("metrics_val", {}).items(), ("on validation", ""))
    return _section("Model", f'<div class="side">{table(facts.items(), ("", ""))}{scores}{classes}</div>')


def _plan(seg: SemanticSegmentor) -> str:
    summary = seg.fit_summary(show=False)
    seconds = [(name.replace("_", " "), value) for name, value in summary.get("seconds", {}).items()]
    return _section(
        "Plan and time",
        bullets(f"{r}." for r in summary.get("plan", ())),
        table(seconds, ("step", "seconds")),
    )


def _models(seg: SemanticSegmentor) -> str:
    board = seg.leaderboard()
    differing = [c for c in hyperparameter_names() if board[c].dropna().map(str).nunique() > 1]
    score = score_name(seg.eval_metric_, seg.problem_type_)
    columns = {"model": "model", "score_val": score, "state": "state", "reason": "reason"}
    columns |= {c: c for c in (*differing, "fit_time", "seconds_per_step", "n_trainable", "peak_memory_mb")}
    plots = [_plot(SearchDisplay.collect(seg), "scores of the models in the order of training")]
    curve = LearningCurveDisplay.collect(seg)
    if curve.steps:
        plots.append(_plot(curve, "validation score over the steps of the kept model"))
    rows = models_table(board, columns, _MOST_MODELS)
    return _section("Models", f'<div class="wide">{rows}</div><div class="side">{"".join(plots)}</div>')


def _scores(seg: SemanticSegmentor, found: Measured) -> str:
    intervals = found.intervals(0.95)
    rows = [(name, r["value"], r["low"], r["high"]) for name, r in intervals.iterrows()]
    classes = found.per_class().reset_index()
    heads = ("class", "IoU", "Dice", "precision", "recall", "pixels")
    shown = classes[["name", "iou", "dice", "precision", "recall", "pixels"]].itertuples(index=False)
    return _section(
        f"Scores on {len(found.index):,} pictures",
        table(rows, ("metric", "value", "95 % from", "to")),
        "<p>Intervals: 1000 bootstrap draws of pictures.</p>",
        f'<div class="wide">{table(shown, heads)}</div>',
    )


def _confusion(seg: SemanticSegmentor, found: Measured) -> str:
    display = ConfusionMatrixDisplay(
        matrix=found.evaluator.confusion.matrix, names=[str(name) for name in seg.classes_]
    )
    return _section("Confusion", _plot(display, "pixels by true and predicted class"))


def _gallery(seg: SemanticSegmentor, data: Any, found: Measured, n: int) -> str:
    """Half of the pictures are the worst, the others are spread evenly over the rest."""
    metric = seg.eval_metric_
    values = found.per_image()[metric].to_numpy(dtype=float)
    order = worst_first(seg, metric, values)
    worst, rest = order[: (n + 1) // 2], order[(n + 1) // 2 :]
    spread = rest[np.unique(np.linspace(0, len(rest) - 1, min(n // 2, len(rest))).round().astype(int))]
    parts = {"The worst pictures, worst first": worst, "Others, worst to best": spread}
    return _section(
        "Pictures",
        gallery(
            {
                title: ErrorGalleryDisplay.of_rows(seg, data, metric, values, chosen)
                for title, chosen in parts.items()
                if len(chosen)
            }
        ),
    )


def gallery(displays: Mapping[str, MaskDisplay]) -> str:
    """HTML of pictures under their titles, smaller where there would be more than 4.4 MB of them."""
    for longest in _LONGEST:
        html = "".join(f"<h3>{escape(t)}</h3>{_figures(d, longest)}" for t, d in displays.items())
        if len(html) <= _MOST_BYTES:
            break
    return html


def _figures(display: MaskDisplay, longest: int) -> str:
    columns, rows = display.rows()
    return "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f"{''.join(_cells(columns, row, title, longest))}</figure>"
        for title, row in zip(display.titles, rows, strict=True)
    )


def _cells(
    columns: Iterable[str], row: Iterable[np.ndarray | None], title: str, longest: int
) -> Iterable[str]:
    for name, picture in zip(columns, row, strict=True):
        if picture is not None:
            alt = escape(f"{name} of {title.splitlines()[0]}")
            source = _data_url(picture, longest, flat=name in ("truth", "prediction"))
            yield f'<div><img src="{source}" alt="{alt}">{escape(name)}</div>'


def _data_url(picture: np.ndarray, longest: int, *, flat: bool) -> str:
    """(H, W, 3) uint8 as PNG (flat colours, which stay exact) or JPEG (photographs)."""
    buffer = io.BytesIO()
    if flat:
        Image.fromarray(thumbnail_mask(picture, longest)).save(buffer, "PNG", optimize=True)
    else:
        Image.fromarray(thumbnail(picture, longest)).save(buffer, "JPEG", quality=80, subsampling=0)
    kind = "png" if flat else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _plot(display: Display, alt: str) -> str:
    buffer = io.BytesIO()
    figure = display.figure()
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "semseg-automl"}):  # the same page again from the same model
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img class="plot" src="data:image/svg+xml;base64,{source}" alt="{escape(alt)}">'


def _with_masks(seg: SemanticSegmentor, data: Any, y: Any) -> Any:
    """The table, checked together with masks that were given apart."""
    if y is None:
        return data
    return check_table(data, y, image=seg.image, label=seg.label, need_label=True, role="data")
