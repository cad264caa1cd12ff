"""Large pictures cut into windows on disk, so that training sees what would vanish in a smaller picture."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.frame import Samples
from semseg_automl.data.images import IntensityScaling, describe, parallel
from semseg_automl.data.label_map import LabelMap
from semseg_automl.data.masks import MaskSource, read_raw_mask
from semseg_automl.data.windows import PictureWindows, check_size

_log = get_logger("data")
Box = tuple[int, int, int, int]  # first row, behind the last row, first column, behind the last column
Shown = tuple[Box, frozenset[int]]  # a window and the classes that it shows


@dataclass(frozen=True, kw_only=True)
class CutRule:
    """How pictures are cut.

    ``side``: longest side of a window in stored pixels. ``most``: windows in all, dealt out evenly to the
    pictures. ``balanced``: of the windows that show a single class no more are kept than of the others.
    """

    side: int
    most: int
    balanced: bool
    seed: int = 0


def boxes(size: tuple[int, int], side: int) -> list[Box]:
    """Windows of at most ``side`` that cover a picture of ``size`` (H, W) once, all of about one size."""
    rows, columns = (_edges(length, side) for length in size)
    return [(t, b, le, r) for t, b in itertools.pairwise(rows) for le, r in itertools.pairwise(columns)]


def cut_samples(
    samples: Samples,
    folder: Path,
    label_map: LabelMap,
    scaling: IntensityScaling | None,
    rule: CutRule,
    until: float = math.inf,
) -> Samples:
    """Write the windows of large pictures as PNG files; smaller pictures stay what they are.

    A picture is decoded once. What the network sees of it is stored: 8-bit RGB, by ``scaling``; and of its
    mask the values as they are. Windows without a labelled pixel are left out.

    Parameters
    ----------
    samples : Samples with masks
    folder : where the files go; must exist
    scaling : of the table; for networks of three channels
    until : float
        ``time.monotonic()`` after which no further picture is begun; the first one always is. Pictures
        come in random order.

    Returns
    -------
    Samples
        Windows and uncut pictures, in the order of the table. Row labels of windows name the place.

    Raises
    ------
    DataError
        A picture or mask can't be read, or its size has changed; mask values beyond 16 bits.
    OSError
        The disk is full.
    """
    if samples.masks is None:
        raise DataError("Cutting needs masks: check the table with need_label=True.")
    share = max(1, rule.most // len(samples))
    parts: dict[int, Samples] = {}
    for i in np.random.default_rng(rule.seed).permutation(len(samples)):
        if parts and time.monotonic() > until:
            found = f"{len(parts)} of {len(samples)} pictures"
            _log.warning("There was time to cut %s: the others are left out.", found)
            break
        one = samples.subset([int(i)])
        if max(one.sizes[0]) > rule.side:
            own = replace(rule, most=share, seed=rule.seed + int(i))
            one = _cut(one, folder / f"{i:06d}", label_map, scaling, own)
        parts[int(i)] = one
    return _joined([parts[i] for i in sorted(parts)])


def _cut(
    one: Samples, stem: Path, label_map: LabelMap, scaling: IntensityScaling | None, rule: CutRule
) -> Samples:
    """The windows of one picture."""
    image, mask, size = one.images[0], _mask_of(one), one.sizes[0]
    windows = PictureWindows(image, scaling)
    check_size(windows, size, image)
    raw = _storable(read_raw_mask(mask), mask)
    if raw.shape[:2] != size:
        raise DataError(f"{describe(mask)}: its size is no longer the {size} that was checked.")
    chosen = _choose(boxes(size, rule.side), lambda box: _classes(raw, box, label_map), rule)

    def write(box: Box) -> tuple[str, str]:
        top, bottom, left, right = box
        image_file, mask_file = (f"{stem}-{top}-{left}-{kind}.png" for kind in ("image", "mask"))
        pixels = windows.window(size, (top, bottom), (left, right))
        for name, array in ((image_file, pixels), (mask_file, raw[top:bottom, left:right])):
            Image.fromarray(np.ascontiguousarray(array)).save(name, compress_level=1)
        return image_file, mask_file

    files = parallel(write, chosen)
    return Samples(
        images=tuple(image for image, _ in files),
        masks=tuple(mask for _, mask in files),
        sizes=tuple((b - t, r - left) for t, b, left, r in chosen),
        index=pd.Index([f"{one.index[0]} at ({t}, {left})" for t, _, left, _ in chosen], dtype=object),
    )


def _mask_of(one: Samples) -> MaskSource:
    if one.masks is None:
        raise DataError("Cutting needs masks: check the table with need_label=True.")
    return one.masks[0]


def _choose(found: list[Box], classes_of: Callable[[Box], frozenset[int]], rule: CutRule) -> list[Box]:
    """At most ``rule.most`` of a picture's windows that show something, in random order.

    Where some are left out each class that the picture shows stays in one of them, if there are enough.
    """
    order = np.random.default_rng(rule.seed).permutation(len(found))
    shown = [(found[k], classes) for k in order if (classes := classes_of(found[k]))]
    if rule.balanced:
        shown = _balanced(shown)
    if len(shown) <= rule.most:
        return [box for box, _ in shown]
    counts = Counter(k for _, classes in shown for k in classes)
    first: list[Box] = []
    for k in sorted(counts, key=lambda k: counts[k]):
        windows = [box for box, classes in shown if k in classes]
        if not any(box in first for box in windows):
            first.append(windows[0])
    return [*first, *(box for box, _ in shown if box not in first)][: rule.most]


def _balanced(shown: list[Shown]) -> list[Shown]:
    """Of the windows that show nothing but the class of most such windows no more than of all others."""
    alone = Counter(next(iter(classes)) for _, classes in shown if len(classes) == 1)
    if not alone:
        return shown
    commonest = frozenset({alone.most_common(1)[0][0]})
    room = max(1, sum(classes != commonest for _, classes in shown))
    kept = []
    for box, classes in shown:
        room -= classes == commonest
        if classes != commonest or room >= 0:
            kept.append((box, classes))
    return kept


def _classes(raw: np.ndarray, box: Box, label_map: LabelMap) -> frozenset[int]:
    """Which classes a window shows."""
    top, bottom, left, right = box
    indices = np.unique(label_map.encode(raw[top:bottom, left:right]))
    return frozenset(int(k) for k in indices if k >= 0)


def _storable(raw: np.ndarray, source: MaskSource) -> np.ndarray:
    """Values of a mask as a PNG holds them: bool, 8 or 16 bits, or colours."""
    if raw.dtype in (np.bool_, np.uint8, np.uint16):
        return raw
    if raw.min() < 0 or raw.max() > 65535:
        raise DataError(f"{describe(source)}: masks of large pictures hold values from 0 to 65535.")
    return raw.astype(np.uint16)


def _edges(length: int, side: int) -> list[int]:
    parts = math.ceil(length / side)
    return [round(k * length / parts) for k in range(parts + 1)]


def _joined(parts: list[Samples]) -> Samples:
    return Samples(
        images=tuple(image for part in parts for image in part.images),
        masks=tuple(mask for part in parts for mask in part.masks or ()),
        sizes=tuple(size for part in parts for size in part.sizes),
        index=pd.Index([label for part in parts for label in part.index], dtype=object),
    )
