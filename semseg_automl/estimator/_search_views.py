"""Three more diagrams of a search: its parameters, how far its trials came, who trained what when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semseg_automl.estimator._curves import BLUE, ORANGE, SKY, VERMILLION, finish_axes, score_name
from semseg_automl.estimator._drawing import Display

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

_EMPTY = "no search was made"
Table = Sequence[Mapping[str, Any]]


@dataclass(kw_only=True, eq=False, repr=False)
class _SearchView(Display):
    """A diagram of ``fit_summary()["search"]``: ``table``, a row a trial; ``metric``: the score's name."""

    table: Table
    metric: str

    @classmethod
    def from_estimator(cls, estimator: SemanticSegmentor, *, ax: Any = None) -> Any:
        """Draw the search of a fit; a fit without one gives an empty diagram that says so."""
        return cls.collect(estimator).plot(ax)

    @classmethod
    def collect(cls, estimator: SemanticSegmentor) -> Any:
        """As :meth:`from_estimator`, without drawing."""
        estimator._require_fitted()
        table = estimator.fit_summary(show=False).get("search", ())
        return cls(table=list(table), metric=score_name(estimator))

    def _draw(self, ax: Any) -> None:
        if self.table:
            self._draw_table(ax)
        else:
            ax.set_axis_off()
            ax.text(0.5, 0.5, _EMPTY, ha="center", va="center", transform=ax.transAxes)

    def _draw_table(self, ax: Any) -> None:
        raise NotImplementedError  # abstract: each diagram defines it


class SearchParametersDisplay(_SearchView):
    """Parallel coordinates: a line a model through its hyperparameters to its score, the best one marked.

    Each axis runs from the least value that was tried to the greatest (choices in the order in which they
    came), equal steps of the logarithm where the greatest is over 20 times the least.
    """

    def _draw_table(self, ax: Any) -> None:
        rows = [row for row in latest(self.table) if row["score"] is not None]
        names = list(dict.fromkeys(name for row in rows for name in row["params"]))
        scales = [_Scale([row["params"].get(name) for row in rows]) for name in names]
        scales.append(_Scale([row["score"] for row in rows], log=False))
        best = max(rows, key=lambda row: row["score"], default=None)
        for row in sorted(rows, key=lambda row: row is best):
            values = [*(row["params"].get(name) for name in names), row["score"]]
            heights = [scale(value) for scale, value in zip(scales, values, strict=True)]
            marked = {"color": ORANGE, "linewidth": 2.5, "label": row["model"]} if row is best else {}
            ax.plot(range(len(heights)), heights, **{"color": BLUE, "alpha": 0.6, "linewidth": 1, **marked})
        for at, scale in enumerate(scales):
            ax.axvline(at, color="0.7", linewidth=0.8, zorder=0)
            for height, text in scale.ends():
                ax.text(at, height, f" {text}", fontsize=8, va="bottom" if height > 0.5 else "top")
        ax.set_xticks(range(len(scales)), [*names, self.metric], rotation=20, ha="right")
        ax.set(yticks=[], ylim=(-0.12, 1.12))
        finish_axes(ax, "", "")


class SearchRungsDisplay(_SearchView):
    """How many models reached each rung, and what they scored there; the models that went on are joined."""

    def _draw_table(self, ax: Any) -> None:
        models: dict[str, list[tuple[int, float]]] = {}
        for row in self.table:
            if row["score"] is not None:
                models.setdefault(row["model"], []).append((row["rung"] + 1, row["score"]))
        for points in models.values():
            ax.plot(*zip(*points, strict=True), "o-", color=BLUE, alpha=0.6, markersize=4, linewidth=1)
        reached = [sum(len(points) > rung for points in models.values()) for rung in range(_longest(models))]
        ax.set_xticks(
            range(1, len(reached) + 1),
            [f"{rung + 1}\n{number} models" for rung, number in enumerate(reached)],
        )
        ax.margins(x=0.15, y=0.15)
        finish_axes(ax, "rung", self.metric)


class SearchTimeDisplay(_SearchView):
    """Who trained what when: a bar a trial, a line a process, the colour tells how the trial ended."""

    def _draw_table(self, ax: Any) -> None:
        workers = list(dict.fromkeys(str(row.get("worker") or "main") for row in self.table))
        end = max((row["ended"] for row in self.table if row["ended"] is not None), default=0.0)
        for row in self.table:
            at = workers.index(str(row.get("worker") or "main"))
            width = (end if row["ended"] is None else row["ended"]) - row["started"]
            failed, label = row["score"] is None, row["model"].removeprefix("trial_")
            colour = VERMILLION if failed else ORANGE if row["continues"] is not None else SKY
            kind = "failed or lost" if failed else "went on" if row["continues"] is not None else "new"
            ax.barh(at, width, left=row["started"], height=0.7, color=colour, edgecolor="white", label=kind)
            ax.text(row["started"] + width / 2, at, label, ha="center", va="center", fontsize=7)
        ax.set_yticks(range(len(workers)), workers)
        ax.invert_yaxis()
        finish_axes(ax, "seconds since the first trial began", "")
        handles, labels = ax.get_legend_handles_labels()
        if handles:
            unique = dict(zip(labels, handles, strict=True))
            ax.legend(unique.values(), unique.keys(), fontsize=9, frameon=False, loc="lower right")

    def _size(self) -> tuple[float, float]:
        return 6.4, 1.6 + 0.5 * len({row.get("worker") for row in self.table})


def latest(table: Table) -> list[Mapping[str, Any]]:
    """Of each model its last trial that has a score, else its last one."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in table:
        if row["model"] not in found or row["score"] is not None:
            found[row["model"]] = row
    return list(found.values())


def _longest(models: Mapping[str, Sequence[Any]]) -> int:
    return max(map(len, models.values()), default=0)


class _Scale:
    """A place from 0 to 1 for each of the values of one axis; 0.5 where there is only one, or none given."""

    def __init__(self, values: Sequence[Any], *, log: bool | None = None) -> None:
        known = [value for value in values if value is not None]
        self._choices: list[Any] = []
        self._log, self._low, self._high = False, 0.0, 0.0
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
            self._low, self._high = (float(f(known)) for f in (min, max)) if known else (0.0, 0.0)
            self._log = log is not False and self._low > 0 and self._high > 20 * self._low
        else:
            self._choices = list(dict.fromkeys(map(str, known)))
            self._high = float(len(self._choices) - 1)

    def __call__(self, value: Any) -> float:
        if value is None or self._high == self._low:
            return 0.5
        number = float(self._choices.index(str(value)) if self._choices else value)
        if self._log:
            return math.log(number / self._low) / math.log(self._high / self._low)
        return (number - self._low) / (self._high - self._low)

    def ends(self) -> list[tuple[float, str]]:
        """Place and text of the values to write beside the axis."""
        if self._choices:
            return [(self(choice), choice) for choice in self._choices]
        if self._high == self._low:
            return [(0.5, f"{self._low:.3g}")]
        return [(0.0, f"{self._low:.3g}"), (1.0, f"{self._high:.3g}")]
