"""A user's table, whatever its form, checked once and turned into :class:`Samples`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError, suggest
from semseg_automl.core.log import get_logger
from semseg_automl.data.complaints import Complaints
from semseg_automl.data.images import Header, Source, as_path, can_be_seen, describe, parallel, picture_header
from semseg_automl.data.masks import MaskSource
from semseg_automl.data.remote import forget, is_remote, open_binary
from semseg_automl.data.sources import MaskStack

_log = get_logger("data")
_SEPARATOR = "other separator"
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """N checked pictures: sources, masks (None where not asked for), sizes (H, W) and row labels.

    ``headers``: what the pictures' headers told; empty where the samples came from another process.
    """

    images: tuple[Source, ...]
    masks: tuple[MaskSource, ...] | None
    sizes: tuple[tuple[int, int], ...]
    index: pd.Index
    headers: tuple[Header, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, positions: Iterable[int]) -> Samples:
        """The rows at the given positions, in that order."""
        chosen = [int(p) for p in positions]
        return Samples(
            images=tuple(self.images[p] for p in chosen),
            masks=None if self.masks is None else tuple(self.masks[p] for p in chosen),
            sizes=tuple(self.sizes[p] for p in chosen),
            index=self.index[chosen],
            headers=tuple(self.headers[p] for p in chosen) if self.headers else (),
        )


def check_table(
    data: Any,
    y: Any = None,
    *,
    image: str = "image",
    label: str | Sequence[str] = "label",
    need_label: bool,
    role: str = "train_data",
    channels: int | None = None,
) -> Samples:
    """Check a table of pictures (and masks) and gather everything that is wrong with it.

    Picture headers are read (size, completeness); masks are fully read later by ``scan_masks``.

    Parameters
    ----------
    data : DataFrame; path of a .csv or .tsv; Series, list or array of pictures; or one picture
        A picture is a path, URL (``data.remote``), (H, W) or (H, W, C) array, or PIL image. Relative
        paths are relative to the csv file, else to the working directory. An array of 4 axes is a list.
    y : Series, list or array of masks, optional
        By position, used instead of the column ``label``.
    image, label : str
        Column names; several labels: a column of masks for each class (see ``sources.MaskStack``).
    need_label : bool
        If False, neither ``y`` nor the label column is looked at.
    role : str
        What messages call the table.
    channels : int, optional
        What a trained network sees: pictures that can't be brought to it are complained of.

    Returns
    -------
    Samples
        Paths made absolute; ``index`` is the DataFrame's or Series' own, else 0..N-1.

    Raises
    ------
    DataError
        One error with every complaint, grouped by kind, with the first row labels.
    """
    forget()  # of earlier calls: what lies at a URL may have changed
    complaints = Complaints(role)
    images, masks, index, base = _columns(
        data, y if need_label else None, image, label, need_label, complaints
    )
    if not len(images):
        complaints.add("empty", "there is not one row")
    complaints.raise_if_any()
    pictures = _check_cells(images, index, base, "image", complaints)
    targets = _check_cells(masks, index, base, "mask", complaints) if need_label else None
    if targets is not None:
        _compare_sizes(pictures, targets, index, complaints)
    _compare_channels(pictures, index, channels, complaints)
    complaints.raise_if_any()
    return Samples(
        images=tuple(source for source, _ in pictures),
        masks=None if targets is None else tuple(source for source, _ in targets),
        sizes=tuple(header.size for _, header in pictures),
        index=index,
        headers=tuple(header for _, header in pictures),
    )


def _columns(
    data: Any, y: Any, image: str, label: str | Sequence[str], need_label: bool, complaints: Complaints
) -> tuple[Sequence[Any], Sequence[Any], pd.Index, str]:
    """Cells of the image and mask columns, row labels, and the folder relative paths start from."""
    base = os.getcwd()
    if isinstance(data, (str, os.PathLike)) and os.path.splitext(as_path(data))[1].lower() in _TABLES:
        base = os.path.dirname(os.path.abspath(as_path(data)))
        data = _read_csv(as_path(data), image, label, complaints)
    if isinstance(data, pd.DataFrame):
        labels = label_columns(label)
        wanted = [image, *labels] if need_label and y is None else [image]
        for name in wanted:
            if name not in data.columns:
                kind, text = _missing(name, [str(c) for c in data.columns])
                complaints.add(kind, text)
                if kind == _SEPARATOR:
                    break  # and so of every other column
            elif isinstance(data[name], pd.DataFrame):
                complaints.add("ambiguous column", f"{name!r} occurs more than once")
        complaints.raise_if_any()
        images, index = list(data[image]), data.index
        masks = list(data[label]) if isinstance(label, str) and len(wanted) == 2 else []
        if not isinstance(label, str) and len(wanted) > 1:
            masks = [_PerClass(row) for row in zip(*(data[name] for name in labels), strict=True)]
    else:
        images, index = _as_cells(data)
        masks = []
        if need_label and y is None:
            complaints.add("masks", _no_masks(data, image, label))
    if y is not None:
        masks = _aligned_masks(y, index, complaints)
    return images, masks, index, base


def _missing(name: str, columns: list[str]) -> tuple[str, str]:
    """Kind and text of the complaint about a column that is not there."""
    other = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
    if other is not None:
        return _SEPARATOR, f"{other!r} seems to part the columns of {columns[0]!r}, not a comma"
    return "missing column", f"{name!r} is not among the columns {columns}.{suggest(name, columns)}"


def _no_masks(data: Any, image: str, label: str | Sequence[str]) -> str:
    """What is said of pictures without masks where a table is needed."""
    wanted = f"pass a DataFrame or csv with the columns {image!r} and {label!r}, or y=masks"
    if not isinstance(data, (str, os.PathLike)):
        return wanted
    if os.path.isdir(as_path(data)):
        return f"{data} is a folder; datasets.from_folders(images, masks) makes a table of two, or {wanted}"
    return f"{data} is taken for one picture, for it does not end in {' or '.join(_TABLES)}; {wanted}"


class _PerClass(tuple[Any, ...]):
    """A row's cells of masks, one for each class."""


def label_columns(label: str | Sequence[str]) -> list[str]:
    """The columns that hold masks.

    Raises
    ------
    ConfigError
        ``label`` is neither a column's name nor a list of different ones.
    """
    names = [label] if isinstance(label, str) else list(label) if isinstance(label, list | tuple) else []
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise ConfigError(f"label is a column's name or a list of different ones, got {label!r}.")
    return names


def _read_csv(path: str, image: str, label: str | Sequence[str], complaints: Complaints) -> pd.DataFrame:
    separator = _TABLES[os.path.splitext(path)[1].lower()]
    try:
        return pd.read_csv(path, sep=separator, dtype=dict.fromkeys([image, *label_columns(label)], str))
    except FileNotFoundError:
        complaints.add("missing file", path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        complaints.add("unreadable table", f"{path}: {error}")
    complaints.raise_if_any()
    return pd.DataFrame()


def _as_cells(data: Any) -> tuple[list[Any], pd.Index]:
    """A list of pictures (or masks) and their row labels from anything that is not a DataFrame."""
    if isinstance(data, pd.Series):
        return list(data), data.index
    if isinstance(data, (pd.Index, pd.api.extensions.ExtensionArray)):  # df["image"].values, .unique()
        data = list(data)
    if isinstance(data, np.ndarray) and data.dtype == object:
        data = list(data.reshape(-1))
    elif isinstance(data, np.ndarray) and (data.ndim == 4 or data.dtype.kind in "UT"):
        data = [str(s) for s in data.reshape(-1)] if data.dtype.kind in "UT" else list(data)
    elif isinstance(data, (str, os.PathLike, np.ndarray, Image.Image)) or hasattr(data, "__array__"):
        data = [data]
    elif isinstance(data, Iterable) and not isinstance(data, (dict, bytes)):
        data = list(data)
    else:
        raise DataError(
            f"A {type(data).__name__} is no table of pictures: pass a DataFrame, a csv file's path, "
            "a list of paths, one path, an array or a PIL image."
        )
    return data, pd.RangeIndex(len(data))


def _aligned_masks(y: Any, index: pd.Index, complaints: Complaints) -> list[Any]:
    if isinstance(y, pd.DataFrame):
        if y.shape[1] != 1:
            complaints.add("y", f"a DataFrame of {y.shape[1]} columns; pass the one with the masks")
            return []
        y = y.iloc[:, 0]
    if isinstance(y, np.ndarray) and y.ndim == 3 and y.shape[0] == len(index) != 1:
        y = list(y)  # (N, H, W): N masks
    masks, labels = _as_cells(y)
    if len(masks) != len(index):
        complaints.add("y", f"{len(masks)} masks for {len(index)} pictures")
    elif isinstance(y, pd.Series) and not labels.equals(index) and set(labels) == set(index):
        _log.warning("y has the rows of the table in another order; masks are matched by position.")
    return masks


def _check_cells(
    cells: Sequence[Any], index: pd.Index, base: str, what: str, complaints: Complaints
) -> list[tuple[Any, Any]]:
    """(source, header) per cell; header None (and a complaint) where the cell is no picture."""
    out: list[tuple[Any, Any]] = []
    found = parallel(lambda cell: _check_cell(cell, base), cells, title=f"Checking {what}s")
    for row, (source, header, kind, text) in zip(index, found, strict=True):
        if kind is not None:
            complaints.add(f"{kind} {what}", text, row)
        out.append((source, header))
    return out


def _check_cell(cell: Any, base: str) -> tuple[Any, Header | None, str | None, str]:
    """(source, header, kind of complaint or None, its text) of one cell."""
    if isinstance(cell, _PerClass):
        return _check_stack(cell, base)
    if isinstance(cell, (str, os.PathLike)):
        if not os.fspath(cell).strip():
            return None, None, "no", "the cell is empty"
        source: Any = cell if is_remote(cell) else os.path.abspath(os.path.join(base, as_path(cell)))
        if is_remote(cell):
            trouble = _trouble_of(source)
            if trouble is not None:
                return None, None, *trouble
        elif not os.path.isfile(source):
            folder = (
                " is a folder; datasets.from_folders makes a table of two" if os.path.isdir(source) else ""
            )
            return None, None, "missing", source + folder
    elif isinstance(cell, Image.Image):
        source = cell
    elif isinstance(cell, np.ndarray) or hasattr(cell, "__array__"):
        source = np.asarray(cell)
    elif cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell)):
        return None, None, "no", f"the cell is empty ({cell})"
    else:
        return None, None, "unsupported", f"a {type(cell).__name__}; give a path, an array or a PIL image"
    try:
        return source, picture_header(source), None, ""
    except DataError as error:
        kind = "unsupported" if isinstance(source, np.ndarray) else "unreadable"
        return source, None, kind, str(error)


def _trouble_of(url: str) -> tuple[str, str] | None:
    """Kind and text of the complaint about a URL that can't be read; what can be is kept for a moment."""
    try:
        open_binary(url).close()
    except FileNotFoundError:
        return "missing", url
    except DataError as error:
        return "unreachable", f"{url}: {error}"
    return None


def _check_stack(cells: _PerClass, base: str) -> tuple[Any, Header | None, str | None, str]:
    """As :func:`_check_cell`, of a row's masks of one class each; an empty cell is no complaint."""
    checked = [_check_cell(cell, base) for cell in cells]
    for _, _, kind, text in checked:
        if kind not in (None, "no"):
            return None, None, kind, text
    headers = [header for _, header, _, _ in checked if header is not None]
    if not headers:
        return None, None, "empty", "every one of the cells is empty"
    if len({header.size for header in headers}) > 1:
        sizes = ", ".join(_size(header.size) for header in headers)
        return None, None, "masks of different sizes instead of one", f"their sizes are {sizes}"
    parts = tuple(source if header is not None else None for source, header, _, _ in checked)
    return MaskStack(parts=parts), headers[0], None, ""


def _compare_sizes(
    pictures: list[tuple[Any, Any]], targets: list[tuple[Any, Any]], index: pd.Index, complaints: Complaints
) -> None:
    for row, (picture, header), (mask, mask_header) in zip(index, pictures, targets, strict=True):
        if header is None or mask_header is None or header.size == mask_header.size:
            continue
        size, mask_size = header.size, mask_header.size
        hint = ""
        if size == mask_size[::-1]:
            hint = " (turned by 90 degrees: does only one of the two carry an EXIF orientation?)"
        names = describe(picture), describe(mask)
        text = f"{names[0]} is {_size(size)}, {names[1]} is {_size(mask_size)}{hint}"
        complaints.add("mask of another size than its image", text, row)


def _compare_channels(
    pictures: list[tuple[Any, Any]], index: pd.Index, seen: int | None, complaints: Complaints
) -> None:
    """Grey and colour may be mixed, other numbers of channels may not; ``seen``: by a trained network."""
    if seen is not None:
        for row, (picture, header) in zip(index, pictures, strict=True):
            if header is not None and not can_be_seen(header.channels, seen):
                text = f"{describe(picture)} has {header.channels}, the model was trained on {seen}"
                complaints.add("another number of channels", text, row)
        return
    found = Counter(header.channels for _, header in pictures if header is not None)
    if len(found) < 2 or set(found) == {1, 3}:
        return
    usual = found.most_common(1)[0][0]
    for row, (picture, header) in zip(index, pictures, strict=True):
        if header is not None and header.channels != usual:
            text = f"{describe(picture)} has {header.channels}, most have {usual}"
            complaints.add("another number of channels (bring all pictures to one)", text, row)


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


@dataclass(frozen=True, kw_only=True)
class PictureList:
    """Pictures of a table that nobody has looked at yet: N sources (paths made absolute), and row labels."""

    sources: tuple[Any, ...]
    index: pd.Index

    def __len__(self) -> int:
        return len(self.sources)

    def look(self, positions: Sequence[int]) -> list[tuple[Source, tuple[int, int]] | DataError]:
        """Read the headers of some pictures: (source, (H, W)), or the error of what is no picture."""
        cells = [self.sources[p] for p in positions]
        out: list[tuple[Source, tuple[int, int]] | DataError] = []
        for position, found in zip(
            positions, parallel(lambda cell: _check_cell(cell, ""), cells), strict=True
        ):
            source, header, kind, text = found
            if kind is None and header is not None:
                out.append((source, header.size))
            else:
                out.append(DataError(f"row {self.index[position]!r}: {kind} image: {text}"))
        return out


def list_pictures(data: Any, *, image: str = "image", role: str = "data") -> PictureList:
    """The pictures of a table in any form that :func:`check_table` takes, without reading one.

    Raises
    ------
    DataError
        Only for what is wrong with the table itself: no such file or column, or no row.
    """
    forget()
    complaints = Complaints(role)
    cells, _, index, base = _columns(data, None, image, "", False, complaints)
    if not len(cells):
        complaints.add("empty", "there is not one row")
    complaints.raise_if_any()
    return PictureList(sources=tuple(_absolute(cell, base) for cell in cells), index=index)


def _absolute(cell: Any, base: str) -> Any:
    """Paths from ``base`` on; URLs of other schemes, empty and other cells as they are."""
    if not isinstance(cell, (str, os.PathLike)) or not os.fspath(cell).strip():
        return cell
    if is_remote(cell):
        return cell
    return os.path.abspath(os.path.join(base, as_path(cell)))
