"""What all displays share: axes of their own or the user's, and pictures side by side in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from PIL import Image

from semseg_automl.core.optional import require

THUMBNAIL = 512
"""Longest side of the pictures that displays keep, in pixels."""


class Display(ABC):
    """Something that matplotlib draws, in scikit-learn's manner.

    ``from_estimator`` collects and draws, ``collect`` only collects, :meth:`plot` draws (again).

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn last; absent before.
    """

    ax_: Any
    figure_: Any

    def plot(self, ax: Any = None) -> Self:
        """Draw into ``ax``, or into a new pyplot figure that a notebook shows by itself."""
        if ax is None:
            pyplot: Any = require("matplotlib.pyplot", extra="plots", purpose="Plotting")
            _, ax = pyplot.subplots(figsize=self._size(), layout="constrained")
        self._draw(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def figure(self) -> Any:
        """A matplotlib Figure of its own, outside of pyplot."""
        require("matplotlib", extra="plots", purpose="Plotting")
        from matplotlib.figure import Figure

        figure = Figure(figsize=self._size(), layout="constrained")
        self._draw(figure.subplots())
        return figure

    def save(self, path: Any, *, dpi: int = 110) -> None:
        """Write a picture file; its ending decides the format."""
        self.figure().savefig(path, dpi=dpi)

    @abstractmethod
    def _draw(self, ax: Any) -> None:
        """Draw into one Axes."""

    def _size(self) -> tuple[float, float]:
        """(width, height) in inches of a figure of its own."""
        return 6.4, 4.2


def thumbnail(picture: np.ndarray, longest: int = THUMBNAIL) -> np.ndarray:
    """An (H, W, 3) uint8 picture, scaled down (never up) to a longest side in pixels."""
    size = _shrunk(picture.shape[:2], longest)
    if size == picture.shape[:2]:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BOX))


def thumbnail_mask(indices: np.ndarray, longest: int = THUMBNAIL) -> np.ndarray:
    """(H, W) class indices, or (H, W, 3) colours, made as small; every pixel is one that was there."""
    (h, w), (to_h, to_w) = indices.shape[:2], _shrunk(indices.shape[:2], longest)
    if (h, w) == (to_h, to_w):
        return indices
    rows = ((np.arange(to_h) + 0.5) * h / to_h).astype(int)  # centres
    columns = ((np.arange(to_w) + 0.5) * w / to_w).astype(int)
    return indices[np.ix_(rows, columns)]


def _shrunk(size: Sequence[int], longest: int) -> tuple[int, int]:
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def picture_grid(
    ax: Any, rows: Sequence[Sequence[np.ndarray | None]], *, titles: Sequence[str], labels: Sequence[str]
) -> None:
    """Pictures in rows inside ``ax``, titles above the columns, labels left of the rows; None stays empty.

    Each row is as high as its tallest picture is where all columns are equally wide.
    """
    ax.set_axis_off()
    heights = np.array(row_heights(rows))
    tops = 1 - np.concatenate([[0.0], np.cumsum(heights)]) / heights.sum()
    width = 1 / len(titles)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            if picture is None:
                continue
            low = tops[r + 1]
            cell = ax.inset_axes([c * width, low, 0.97 * width, 0.97 * (tops[r] - low)])
            cell.imshow(picture, interpolation="nearest", aspect="equal")
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set(color="0.7", linewidth=0.5)
            if r == 0:
                cell.set_title(titles[c], fontsize=10)
            if c == 0:
                cell.set_ylabel(labels[r], fontsize=8)


def row_heights(rows: Sequence[Sequence[np.ndarray | None]]) -> list[float]:
    """Height of each row where a column is 1 wide, at most 2.5."""
    return [min(2.5, max(p.shape[0] / p.shape[1] for p in row if p is not None)) for row in rows]
