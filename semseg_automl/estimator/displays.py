"""Pictures of predictions: image, truth and prediction side by side (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from semseg_automl.core.optional import require
from semseg_automl.data.frame import check_table, label_columns
from semseg_automl.data.images import read_seen
from semseg_automl.data.labels import IGNORE, LabelMap, read_mask

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor

# Okabe and Ito, "Color Universal Design", 2008: told apart by colour-blind readers
PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (153, 153, 153),
        (102, 51, 0),
        (255, 255, 255),
        (128, 0, 128),
    ],
    np.uint8,
)


def class_colours(n_classes: int) -> np.ndarray:
    """(K, 3) uint8 colours; beyond its length the palette repeats darker, without its black."""
    repeats, at = np.divmod(np.arange(n_classes) - 1, len(PALETTE) - 1)
    colours = PALETTE[1 + at] / (1 + repeats[:, None].clip(0))
    colours[:1] = PALETTE[0]
    return colours.astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class MaskDisplay:
    """Pictures with class indices of truth (None where unknown) and prediction.

    ``images``: (H, W, 3) uint8 each; ``truths`` and ``predictions``: (H, W) class indices, IGNORE shown grey.
    """

    images: Sequence[np.ndarray]
    truths: Sequence[np.ndarray | None]
    predictions: Sequence[np.ndarray]
    label_map: LabelMap
    titles: Sequence[str] = ()

    @classmethod
    def from_estimator(cls, estimator: SemanticSegmentor, data: Any, *, n: int = 4) -> MaskDisplay:
        """Predict up to ``n`` pictures of ``data``, evenly spread over it."""
        model = estimator._model
        labelled = isinstance(data, pd.DataFrame) and set(label_columns(estimator.label)) <= set(data.columns)
        labelled = labelled or str(data).lower().endswith((".csv", ".tsv"))
        samples = check_table(
            data, image=estimator.image, label=estimator.label, need_label=labelled, role="data"
        )
        at = np.unique(np.linspace(0, len(samples) - 1, min(n, len(samples))).round().astype(int))
        chosen = samples.subset(at)
        masks = estimator.predict(list(chosen.images))
        return cls(
            images=[read_seen(s, model.scaling)[..., :3] for s in chosen.images],
            truths=[read_mask(m, model.label_map) for m in chosen.masks]
            if chosen.masks
            else [None] * len(at),
            predictions=[model.label_map.encode(m) for m in masks],
            label_map=model.label_map,
            titles=[str(label) for label in chosen.index],
        )

    def plot(self) -> Any:
        """Draw one row per picture and return the matplotlib figure."""
        require("matplotlib", extra="plots", purpose="Plotting")
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        known = any(t is not None for t in self.truths)
        columns = ["image", "truth", "prediction"] if known else ["image", "prediction"]
        tallest = [min(2.5, image.shape[0] / image.shape[1]) for image in self.images]
        height = 3.4 * sum(tallest) + 0.3 * len(tallest) + 0.6
        figure = Figure(figsize=(3.4 * len(columns), height), layout="constrained")
        axes = figure.subplots(len(self.images), len(columns), squeeze=False)
        for row, image in enumerate(self.images):
            shown = {
                "image": image,
                "truth": self._colour(self.truths[row]),
                "prediction": self._colour(self.predictions[row]),
            }
            for column, name in enumerate(columns):
                axes[row, column].set_axis_off()
                if shown[name] is not None:
                    axes[row, column].imshow(shown[name], interpolation="nearest")
                axes[row, column].set_title(name if row == 0 else "", fontsize=10)
        colours = class_colours(self.label_map.n_classes) / 255
        patches = [
            Patch(facecolor=tuple(c), edgecolor="grey", label=n)
            for c, n in zip(colours, self.label_map.names, strict=True)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=9)
        return figure

    def save(self, path: Any) -> None:
        """Write the plot as a picture file."""
        self.plot().savefig(path, dpi=110)

    def _colour(self, indices: np.ndarray | None) -> np.ndarray | None:
        if indices is None:
            return None
        table = np.concatenate([class_colours(self.label_map.n_classes), [(190, 190, 190)]]).astype(np.uint8)
        return table[np.where(indices == IGNORE, self.label_map.n_classes, indices)]
