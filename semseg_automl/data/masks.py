"""Masks as they are stored, and what values a whole table of them holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data.complaints import Complaints
from semseg_automl.data.images import Source, describe, open_pixels, parallel
from semseg_automl.data.palettes import Palette, Value, palette_conflict
from semseg_automl.data.sources import MaskStack

MaskSource = Source | MaskStack


def read_raw_mask(source: MaskSource) -> np.ndarray:
    """Read one mask without interpreting its values.

    Parameters
    ----------
    source : path, ``file://`` URL, array, PIL image, or one of these for each class (MaskStack)
        Index, palette (the indices count, not the palette), 1-bit, 0/255, 16-bit or colour masks.
        An alpha channel is dropped. Float arrays must hold whole numbers.

    Returns
    -------
    array, (H, W) bool or integer, or (H, W, 3) uint8 for colours
        EXIF orientation applied, as it is to the picture.

    Raises
    ------
    DataError
        Naming the file, if it can't be decoded; for arrays of another shape; for broken numbers.
    """
    return _read(source, _mask_pixels)


def _read(source: MaskSource, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    if isinstance(source, MaskStack):
        return _stacked(source)
    raw = source if isinstance(source, np.ndarray) else open_pixels(source, convert)
    if raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[..., 0]  # (H, W, 1) -> (H, W)
    if 0 in raw.shape or not (raw.ndim == 2 or (raw.ndim == 3 and raw.shape[2] in (3, 4))):
        raise DataError(f"{describe(source)}: masks are (H, W) values or (H, W, 3) colours.")
    raw = _whole_numbers(raw, source)
    if raw.ndim == 3:
        raw = raw[..., :3]
        if raw.min() < 0 or raw.max() > 255:
            raise DataError(f"{describe(source)}: colours in masks are 0..255.")
        raw = raw.astype(np.uint8, copy=False)
    return np.ascontiguousarray(raw.astype(raw.dtype.newbyteorder("="), copy=False))


def _stacked(stack: MaskStack) -> np.ndarray:
    """(H, W) uint8 or uint16: see :class:`MaskStack`."""
    out: np.ndarray | None = None
    for value, part in enumerate(stack.parts, start=1):
        if part is None:
            continue
        raw = read_raw_mask(part)
        others = [v for v in count_values(raw) if v not in (0, (0, 0, 0))]
        if len(others) > 1:
            raise DataError(
                f"{describe(part)}: the mask of one class holds 0 and one other value, found {len(others)} "
                f"others, such as {', '.join(map(str, others[:5]))}. Masks saved "
                "as JPEG or resized with smoothing hold values that no one drew: save them as PNG"
            )
        inside = raw.any(axis=-1) if raw.ndim == 3 else raw != 0
        if out is None:
            out = np.zeros(inside.shape, np.uint8 if len(stack.parts) < 256 else np.uint16)
        elif out.shape != inside.shape:
            raise DataError(f"{describe(stack)}: the masks of one picture differ in size")
        out[inside] = value
    if out is None:
        raise DataError("a row without any mask")
    return out


def pack(colours: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 to codes (...) int32, ``r * 65536 + g * 256 + b``."""
    wide = colours.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpack(code: int) -> tuple[int, int, int]:
    """Inverse of :func:`pack` for one code."""
    return code >> 16, (code >> 8) & 255, code & 255


def count_values(raw: np.ndarray) -> dict[Value, int]:
    """Pixels per value of one raw mask; colours are (r, g, b) tuples."""
    if raw.dtype in (np.bool_, np.uint8, np.uint16) and raw.ndim == 2:
        counts = np.bincount(raw.reshape(-1))  # (H, W) -> (H*W,)
        return {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    codes = (pack(raw) if raw.ndim == 3 else raw).reshape(-1)  # (H, W) -> (H*W,)
    # Masks are long runs of one value: count runs, weighted by length, instead of sorting pixels.
    starts = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1))
    lengths = np.diff(starts, append=codes.size)
    values, which = np.unique(codes[starts], return_inverse=True)
    counts = np.bincount(which, weights=lengths)
    keys: list[Value] = [unpack(int(v)) if raw.ndim == 3 else int(v) for v in values]
    return {key: int(count) for key, count in zip(keys, counts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class LabelScan:
    """Which values a table's masks hold.

    ``rows[i]`` maps raw value -> pixels of mask i; ``index[i]`` is that row's label in the user's
    table. All values are ints, or all are (r, g, b): see :func:`scan_masks`. ``palette``: r, g, b of
    index 0, 1, ... where every mask is a palette picture with the same colours, else None. ``conflict``:
    why the indices of palette masks can't be trusted (``palettes``). ``boolean[i]``: whether mask i is, so
    that its 1 may mean another table's 255.
    """

    rows: tuple[Mapping[Value, int], ...]
    index: tuple[object, ...]
    palette: Palette | None = None
    conflict: str | None = None
    boolean: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def pixels(self) -> dict[Value, int]:
        """Pixels per value over the whole table, by ascending value."""
        total: Counter[Value] = Counter()
        for row in self.rows:
            total.update(row)
        return {value: total[value] for value in sorted(total)}

    @cached_property
    def pictures(self) -> dict[Value, int]:
        """Number of masks that hold a value, by ascending value."""
        found = Counter(value for row in self.rows for value in row)
        return {value: found[value] for value in self.pixels}

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value that occurs, ascending."""
        return tuple(self.pixels)

    def counts(self, values: Sequence[Value]) -> np.ndarray:
        """Pixels (N, K) int64 of each of K values in each of N masks."""
        return np.array([[row.get(v, 0) for v in values] for row in self.rows], np.int64).reshape(
            -1, len(values)
        )

    def rows_with(self, value: Value) -> list[object]:
        """Labels of the rows whose mask holds a value, in table order."""
        return [label for label, row in zip(self.index, self.rows, strict=True) if value in row]


def scan_masks(sources: Sequence[MaskSource], *, index: Sequence[object] | None = None) -> LabelScan:
    """Read every mask of a table once and count its values.

    Over the whole table, never per mask: if every colour is grey (r == g == b), colours become
    ints; if any is not, ints v become (v, v, v). True of boolean and 1-bit masks is 1, or 255
    where the table's other masks are 0/255.

    Parameters
    ----------
    sources : masks, N of them
    index : row labels for messages, default 0..N-1

    Raises
    ------
    DataError
        One error for all masks that can't be read, with their first row labels.
    """
    labels = tuple(range(len(sources)) if index is None else index)
    complaints = Complaints("The masks")
    rows: list[dict[Value, int]] = []
    boolean: list[bool] = []
    palettes: list[Palette | None] = []
    for label, found in zip(labels, parallel(_count_one, sources, title="Reading masks"), strict=True):
        if isinstance(found, DataError):
            complaints.add("unreadable mask", str(found), label)
        else:
            rows.append(found[0])
            boolean.append(found[1])
            palettes.append(found[2])
    complaints.raise_if_any()
    conflict = palette_conflict(rows, palettes, labels)
    rows = _one_kind(_booleans_as(rows, boolean), labels)
    return LabelScan(
        rows=tuple(rows),
        index=labels,
        palette=palettes[0] if len(set(palettes)) == 1 else None,
        conflict=conflict,
        boolean=tuple(boolean),
    )


def _count_one(source: MaskSource) -> tuple[dict[Value, int], bool, Palette | None] | DataError:
    """Pixels per value, whether the mask is boolean, its palette; or what is wrong with it."""
    palette: list[int] = []

    def convert(image: Image.Image) -> np.ndarray:
        if image.mode == "P":
            palette.extend(image.getpalette() or ())
        return _mask_pixels(image)

    try:
        raw = _read(source, convert)
    except DataError as error:
        return error
    return count_values(raw), raw.dtype == bool, tuple(palette) or None


def _booleans_as(rows: list[dict[Value, int]], boolean: list[bool]) -> list[dict[Value, int]]:
    others = {v for row, flag in zip(rows, boolean, strict=True) if not flag for v in row}
    if not any(boolean) or 255 not in others or not others <= {0, 255}:
        return rows
    return [
        {v * 255 if flag and isinstance(v, int) else v: n for v, n in row.items()}
        for row, flag in zip(rows, boolean, strict=True)
    ]


def _one_kind(rows: list[dict[Value, int]], labels: Sequence[object]) -> list[dict[Value, int]]:
    values = {v for row in rows for v in row}
    colours = {v for v in values if isinstance(v, tuple)}
    if not colours:
        return rows
    if all(r == g == b for r, g, b in colours):
        return [_merged(row, lambda v: v[0] if isinstance(v, tuple) else v) for row in rows]
    for label, row in zip(labels, rows, strict=True):
        odd = [v for v in row if isinstance(v, int) and not 0 <= v <= 255]
        if odd:
            raise DataError(
                f"The masks mix colours with values outside 0..255: row {label!r} holds {odd[0]}."
            )
    return [_merged(row, lambda v: (v, v, v) if isinstance(v, int) else v) for row in rows]


def _merged(row: Mapping[Value, int], rename: Callable[[Value], Value]) -> dict[Value, int]:
    out: Counter[Value] = Counter()
    for value, count in row.items():
        out[rename(value)] += count
    return dict(out)


def _mask_pixels(image: Image.Image) -> np.ndarray:
    """Raw values of a decoded PIL image: bool, grey or palette index of any depth, RGB."""
    mode = image.mode
    if mode in ("LA", "PA"):
        return np.asarray(image)[..., 0]  # (H, W, 2) -> (H, W): alpha dropped
    if mode in ("1", "L", "P", "I", "F", "RGB", "RGBA") or mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def _whole_numbers(raw: np.ndarray, source: Source) -> np.ndarray:
    if raw.dtype.kind in "biu":
        return raw
    if raw.dtype.kind == "f" and np.isfinite(raw).all() and (raw == np.rint(raw)).all():
        return raw.astype(np.int64)
    raise DataError(
        f"{describe(source)}: masks hold whole numbers, found {raw.dtype} values that are not; "
        "give class numbers."
    )
