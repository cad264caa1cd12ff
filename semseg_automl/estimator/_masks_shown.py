"""Pictures of predictions: image, truth and prediction side by side, and the errors of the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from semseg_automl.data.frame import Samples, check_table, label_columns
from semseg_automl.data.images import read_seen
from semseg_automl.data.labels import IGNORE, LabelMap, read_mask
from semseg_automl.estimator._drawing import Display, picture_grid, row_heights, thumbnail, thumbnail_mask
from semseg_automl.estimator.colours import PALETTE, class_colours, colour_mask
from semseg_automl.metrics.registry import resolve_metric

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_MOST_IN_LEGEND = 24
MISSED, FALSE_ALARM = tuple(PALETTE[6]), tuple(PALETTE[5])
"""Colours of errors: vermillion and blue."""


@dataclass(kw_only=True, eq=False, repr=False)
class MaskDisplay(Display):
    """Pictures with class indices of truth (None where unknown) and prediction.

    ``images``: (H, W, 3) uint8 each; ``truths`` and ``predictions``: (H, W) class indices, IGNORE shown
    grey; ``titles``: what stands left of the rows.
    """

    images: Sequence[np.ndarray]
    truths: Sequence[np.ndarray | None]
    predictions: Sequence[np.ndarray]
    label_map: LabelMap
    titles: Sequence[str] = ()

    @classmethod
    def from_estimator(
        cls, estimator: SemanticSegmentor, data: Any, *, n: int = 4, ax: Any = None
    ) -> MaskDisplay:
        """Predict and draw up to ``n`` pictures of ``data``, evenly spread over it."""
        return cls.collect(estimator, data, n=n).plot(ax)

    @classmethod
    def collect(cls, estimator: SemanticSegmentor, data: Any, *, n: int = 4) -> Self:
        """Predict up to ``n`` pictures of ``data``, evenly spread over it."""
        samples = read_samples(estimator, data)
        at = np.unique(np.linspace(0, len(samples) - 1, min(n, len(samples))).round().astype(int))
        chosen = samples.subset(at)
        return cls(**shown(estimator, chosen), titles=[str(label) for label in chosen.index])

    def rows(self) -> tuple[list[str], list[list[np.ndarray | None]]]:
        """Titles of the columns, and the pictures row by row."""
        k = self.label_map.n_classes
        coloured = [
            [None if m is None else colour_mask(m, k) for m in ms] for ms in (self.truths, self.predictions)
        ]
        columns: dict[str, Sequence[np.ndarray | None]] = {"image": self.images}
        if any(t is not None for t in self.truths):
            columns["truth"] = coloured[0]
        columns["prediction"] = coloured[1]
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]

    def _draw(self, ax: Any) -> None:
        from matplotlib.patches import Patch

        titles, rows = self.rows()
        picture_grid(ax, rows, titles=titles, labels=list(self.titles) or [""] * len(rows))
        patches = [
            Patch(facecolor=tuple(np.array(colour) / 255), edgecolor="grey", label=name)
            for name, colour in self._legend()
        ]
        ax.legend(
            handles=patches[:_MOST_IN_LEGEND],
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=min(6, len(patches)),
            fontsize=9,
            frameon=False,
        )

    def _legend(self) -> list[tuple[str, Sequence[int]]]:
        names = self.label_map.names
        return list(zip(names, class_colours(len(names)), strict=True))

    def _size(self) -> tuple[float, float]:
        titles, rows = self.rows()
        legend = 0.3 * (1 + min(_MOST_IN_LEGEND, len(self._legend())) // 6)
        return 2.6 * len(titles) + 0.4, 2.6 * sum(row_heights(rows)) + 0.3 + legend


@dataclass(kw_only=True, eq=False, repr=False)
class ErrorGalleryDisplay(MaskDisplay):
    """The pictures with the worst scores, worst first; a column shows where the errors are."""

    @classmethod
    def from_estimator(
        cls,
        estimator: SemanticSegmentor,
        data: Any,
        *,
        n: int = 4,
        metric: str | None = None,
        ax: Any = None,
    ) -> ErrorGalleryDisplay:
        """Score every picture of a table with masks, and draw the worst ``n``.

        ``metric``: a name of ``metrics.registry``; None: the eval metric. Pictures where it is not
        defined are left out.
        """
        return cls.collect(estimator, data, n=n, metric=metric).plot(ax)

    @classmethod
    def collect(
        cls, estimator: SemanticSegmentor, data: Any, *, n: int = 4, metric: str | None = None
    ) -> Self:
        """As :meth:`from_estimator`, without drawing."""
        estimator._require_fitted()
        name = resolve_metric(metric or estimator.eval_metric_, estimator.problem_type_).name
        values = estimator.evaluate(data, [name], per_image=True)[name].to_numpy(dtype=float)
        return cls.of_rows(estimator, data, name, values, worst_first(estimator, name, values)[:n])

    @classmethod
    def of_rows(
        cls, estimator: SemanticSegmentor, data: Any, metric: str, values: np.ndarray, chosen: np.ndarray
    ) -> Self:
        """The rows of ``data`` at the positions ``chosen``; ``values`` (N,) are all rows' scores."""
        samples = read_samples(estimator, data).subset(chosen)
        titles = [f"{k}\n{metric} {values[i]:.3f}" for k, i in zip(samples.index, chosen, strict=True)]
        return cls(**shown(estimator, samples), titles=titles)

    def rows(self) -> tuple[list[str], list[list[np.ndarray | None]]]:
        """As of a MaskDisplay, with the errors in a last column."""
        titles, rows = super().rows()
        for row, image, truth, prediction in zip(
            rows, self.images, self.truths, self.predictions, strict=True
        ):
            row.append(None if truth is None else self._errors(image, truth, prediction))
        return [*titles, "errors"], rows

    def _legend(self) -> list[tuple[str, Sequence[int]]]:
        if self.label_map.problem_type == "binary":
            return [*super()._legend(), ("missed", MISSED), ("false alarm", FALSE_ALARM)]
        return [*super()._legend(), ("wrong class", MISSED)]

    def _errors(self, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """(H, W, 3): the picture in pale grey with the wrong pixels in colour."""
        pale = (120 + 0.5 * image.mean(-1, keepdims=True)).astype(np.uint8).repeat(3, -1)
        wrong = (truth != prediction) & (truth != IGNORE)
        pale[wrong] = MISSED
        if self.label_map.problem_type == "binary":
            pale[wrong & (truth == 0)] = FALSE_ALARM
        return pale


def worst_first(estimator: SemanticSegmentor, metric: str, values: np.ndarray) -> np.ndarray:
    """Positions of (N,) scores from the worst to the best (ties in their order); NaN left out."""
    spec = resolve_metric(metric, estimator.problem_type_)
    order = np.argsort([spec.score(v) for v in values], kind="stable")
    return order[~np.isnan(values[order])]


def read_samples(estimator: SemanticSegmentor, data: Any) -> Samples:
    """A table of pictures, with masks where it has a column of them; what was checked stays as it is."""
    if isinstance(data, Samples):
        return data
    wanted = set(label_columns(estimator.label))
    labelled = isinstance(data, pd.DataFrame) and wanted <= set(data.columns)
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        path = str(data)
        if path.lower().endswith((".csv", ".tsv")):
            header = pd.read_csv(path, sep="\t" if path.lower().endswith(".tsv") else ",", nrows=0)
            labelled = wanted <= set(header.columns)
    return check_table(data, image=estimator.image, label=estimator.label, need_label=labelled, role="data")


def shown(estimator: SemanticSegmentor, samples: Samples) -> dict[str, Any]:
    """Images, truths and predictions of some samples, scaled down to the size that displays keep."""
    estimator._require_fitted()
    model = estimator._model
    label_map = model.label_map
    masks = estimator.predict(list(samples.images))
    truths = [read_mask(m, label_map) for m in samples.masks] if samples.masks else [None] * len(samples)
    return {
        "images": [thumbnail(read_seen(s, model.scaling)[..., :3]) for s in samples.images],
        "truths": [None if t is None else thumbnail_mask(t) for t in truths],
        "predictions": [thumbnail_mask(label_map.encode(m)) for m in masks],
        "label_map": label_map,
    }
