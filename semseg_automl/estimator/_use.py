"""Using a fitted model: masks, probabilities, scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.fingerprint import PictureSizes
from semseg_automl.data.frame import Samples, check_table, list_pictures
from semseg_automl.data.images import network_channels
from semseg_automl.data.labels import read_raw_mask
from semseg_automl.inference.predict import Predictor
from semseg_automl.inference.stream import write_masks
from semseg_automl.inference.tiling import TileRule
from semseg_automl.inference.views import Views
from semseg_automl.inference.writer import MaskWriter
from semseg_automl.metrics.bootstrap import check_level
from semseg_automl.metrics.evaluator import Evaluator
from semseg_automl.metrics.registry import UserMetric
from semseg_automl.models.devices import keep_freed_memory, pick_devices

if TYPE_CHECKING:
    from semseg_automl.estimator.segmentor import SemanticSegmentor
    from semseg_automl.inference.predict import Predictor

_LOG = get_logger("estimator")


def is_single(data: Any) -> bool:
    """Whether ``data`` is one picture rather than a table or list of them."""
    if isinstance(data, Image.Image):
        return True
    if isinstance(data, np.ndarray):
        return data.dtype != object and data.dtype.kind not in "UT" and data.ndim in (2, 3)
    if isinstance(data, str | os.PathLike):
        return not str(os.fspath(data)).lower().endswith((".csv", ".tsv"))
    return False


def _answer(data: Any, index: pd.Index, values: Sequence[Any], name: str) -> Any:
    """One value for one picture (None where it is of another shard), else a Series indexed as the input."""
    if is_single(data):
        return values[0] if values else None
    cells = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        cells[i] = value
    return pd.Series(cells, index=index, name=name, dtype=object)  # else None among texts becomes NaN


def _name(seg: SemanticSegmentor) -> str:
    """What a Series of masks is called."""
    return seg.label if isinstance(seg.label, str) else "label"


def _pictures(seg: SemanticSegmentor, data: Any, y: Any = None, *, need_label: bool = False) -> Samples:
    """The checked table, of pictures that the model can see."""
    return check_table(
        data,
        y,
        image=seg.image,
        label=seg.label,
        need_label=need_label,
        role="data",
        channels=network_channels(seg._model.scaling),
    )


def predict_masks(
    seg: SemanticSegmentor,
    data: Any,
    *,
    output_dir: Any,
    batch_size: int | str,
    tta: Views,
    tile: TileRule,
    shard: tuple[int, int] | None,
) -> Any:
    """See ``SemanticSegmentor.predict``."""
    predictor = seg._get_predictor()
    if output_dir is not None:
        fit_id = seg._model.info.get("fit_id", "")
        key = f"{fit_id}{sorted(seg.best_config_.items())}{seg.best_score_}{tta}{tile}"
        return _predict_files(
            seg, data, key, output_dir=output_dir, batch_size=batch_size, tta=tta, tile=tile, shard=shard
        )
    if shard is not None:
        raise ConfigError("shard= is a part of the files of output_dir=: give that too.")
    samples = _pictures(seg, data)
    masks: list[Any] = [None] * len(samples)
    for i, mask in predictor.iter_masks(samples.images, batch_size, tta=tta, tile=tile):
        masks[i] = mask
    return _answer(data, samples.index, masks, _name(seg))


def _predict_files(
    seg: SemanticSegmentor,
    data: Any,
    key: str,
    *,
    output_dir: Any,
    batch_size: int | str,
    tta: Views,
    tile: TileRule,
    shard: tuple[int, int] | None,
) -> Any:
    """Paths of the masks, None where a picture can't be read; of one picture alone, its error."""
    pictures = list_pictures(data, image=seg.image)
    writer = MaskWriter(
        output_dir, pictures.sources, key=key, shard=shard, palette=seg._model.label_map.palette
    )
    first, step = shard or (0, 1)
    positions = range(first, len(pictures), step)
    report = write_masks(
        seg._get_predictor(), pictures, writer, positions, batch_size=batch_size, views=tta, tile=tile
    )
    if is_single(data) and report.failures:
        raise DataError(next(iter(report.failures.values())))
    paths = [None if i in report.failures else str(writer.path(i)) for i in positions]
    return _answer(data, pictures.index[first::step], paths, _name(seg))


def predict_probabilities(
    seg: SemanticSegmentor, data: Any, *, batch_size: int | str, tta: Views, tile: TileRule
) -> Any:
    """See ``SemanticSegmentor.predict_proba``."""
    predictor = seg._get_predictor()
    samples = _pictures(seg, data)
    found: list[Any] = [None] * len(samples)
    for i, probability in predictor.iter_probabilities(samples.images, batch_size, tta=tta, tile=tile):
        found[i] = probability
    return _answer(data, samples.index, found, _name(seg))


def make_predictor(seg: SemanticSegmentor, segmenter: Any) -> Predictor:
    """The predictor of a fitted segmentor's classes, sizes and device with a network."""
    device = pick_devices(getattr(seg, "_devices", "auto"))
    if device.kind == "cpu":
        keep_freed_memory()
    model = seg._model
    return Predictor(
        segmenter,
        model.label_map,
        model.config.model.image_size,
        scaling=model.scaling,
        threshold=model.threshold,
        device=device.torch_device(),
        trained=PictureSizes.from_json(model.info.get("train_pictures")),
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A table that was predicted and counted, picture by picture."""

    evaluator: Evaluator
    metrics: list[str | UserMetric] | None
    order: np.ndarray
    """(N,) positions in the table, in the order in which the evaluator saw them."""
    index: pd.Index
    names: tuple[str, ...]

    def per_class(self) -> pd.DataFrame:
        """A row per class: iou, dice, precision, recall and pixel counts."""
        rows = pd.DataFrame(self.evaluator.per_class())
        rows.insert(0, "name", list(self.names))
        return rows.set_index("name")

    def per_image(self) -> pd.DataFrame:
        """A row of metrics per picture, in the table's order."""
        frame = pd.DataFrame(self.evaluator.per_image(self.metrics), index=self.index[self.order])
        return frame.iloc[np.argsort(self.order)]

    def intervals(self, level: float) -> pd.DataFrame:
        """A row per metric: value, low, high."""
        rows = pd.DataFrame.from_dict(self.evaluator.intervals(self.metrics, level=level), orient="index")
        return rows.rename_axis(index="metric")


def measure(
    seg: SemanticSegmentor,
    data: Any,
    y: Any = None,
    names: Iterable[str | UserMetric] | None = None,
    *,
    strict_labels: bool = False,
    tta: Views | None = None,
    tile: TileRule | None = None,
) -> Measured:
    """Predict and count a table with masks in one pass, one picture's probabilities at a time."""
    predictor = seg._get_predictor()
    label_map = seg._model.label_map
    binary = label_map.problem_type == "binary"
    metrics = None if names is None else list(names)
    evaluator = Evaluator(  # refuses a wrong name before any work
        label_map.n_classes, binary, predictor.threshold if binary else 0.5, metrics=metrics
    )
    samples = _pictures(seg, data, y, need_label=True)
    targets = _targets(samples, label_map, strict_labels)
    views, rule = tta or seg._tta(None), tile or TileRule.of("auto", 0.25)
    order = []
    for i, probability in predictor.iter_probabilities(samples.images, tta=views, tile=rule):
        evaluator.add(probability, targets(i))
        order.append(i)
    return Measured(
        evaluator=evaluator,
        metrics=metrics,
        order=np.array(order),
        index=samples.index,
        names=label_map.names,
    )


def evaluate_table(
    seg: SemanticSegmentor,
    data: Any,
    y: Any,
    names: Iterable[str | UserMetric] | None,
    *,
    per_class: bool,
    per_image: bool,
    strict_labels: bool,
    tta: Views,
    tile: TileRule,
    confidence: float | None,
) -> Any:
    """See ``SemanticSegmentor.evaluate``."""
    seg._require_fitted()
    if per_class and per_image:
        raise ConfigError("per_class and per_image are two tables: ask for one of them.")
    if confidence is not None:
        check_level(confidence)
        if per_class or per_image:
            raise ConfigError("confidence is for the whole table: leave out per_class and per_image.")
    found = measure(seg, data, y, names, strict_labels=strict_labels, tta=tta, tile=tile)
    if per_class:
        return found.per_class()
    if per_image:
        return found.per_image()
    if confidence is not None:
        return found.intervals(confidence)
    return found.evaluator.result(found.metrics)


def _targets(samples: Samples, label_map: Any, strict: bool) -> Any:
    """A reader of class indices that reports raw values never seen in training."""
    masks = samples.masks or ()
    warned: set[Any] = set()

    def read(position: int) -> np.ndarray:
        raw = read_raw_mask(masks[position])
        unknown = label_map.unknown_values(raw) - warned
        if unknown:
            shown = ", ".join(map(str, sorted(unknown, key=str)[:10]))
            text = f"mask of row {samples.index[position]!r} holds values that training never saw: {shown}"
            if strict:
                raise DataError(f"The {text} (strict_labels=True).")
            if not warned:
                _LOG.warning("The %s; such pixels are ignored.", text)
            warned.update(unknown)
        return label_map.encode(raw)

    return read
