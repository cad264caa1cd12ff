"""Polygons to masks: tables from COCO and YOLO annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.optional import require
from semseg_automl.data.complaints import Complaints
from semseg_automl.data.images import image_size

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
Shape = tuple[int, Any]  # value, and a list of polygons (n, 2) in pixels or a COCO run-length dict


def from_coco(
    annotations: str | os.PathLike, images: str | os.PathLike, masks: str | os.PathLike
) -> pd.DataFrame:
    """Draw the masks of a COCO instance or stuff file, and pair them with its pictures.

    Parameters
    ----------
    annotations : JSON file with ``images``, ``annotations`` and ``categories``
    images : folder that ``file_name`` is relative to
    masks : folder
        Gets a PNG for each picture: 0 for background, else the category's id (ids + 1 where a category
        has the id 0). Smaller objects lie on top. Polygons and run lengths are drawn; compressed run
        lengths need ``pip install 'semseg_automl[coco]'``.

    Returns
    -------
    DataFrame
        Columns image, label: paths as strings. ``attrs["classes"]``: value -> name, for ``classes=``.

    Raises
    ------
    DataError
        Everything that is wrong with the file, by picture and annotation id.
    """
    content = _read_json(Path(annotations))
    complaints = Complaints(str(annotations))
    shift = int(any(c["id"] == 0 for c in content["categories"]))
    names = {
        int(c["id"]) + shift: str(c["name"]) for c in sorted(content["categories"], key=lambda c: c["id"])
    }
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation.get("image_id"), []).append(annotation)
    rows = []
    for entry in content["images"]:
        path = Path(images) / entry["file_name"]
        found = sorted(of_image.pop(entry["id"], ()), key=lambda a: -float(a.get("area", 0)))
        shapes: list[Shape] = []
        for annotation in found:
            value, drawn = int(annotation["category_id"]) + shift, annotation.get("segmentation")
            if value not in names:
                complaints.add(
                    "unknown category", f"category_id {annotation['category_id']}", annotation.get("id")
                )
            elif isinstance(drawn, Mapping):
                shapes.append((value, drawn))
            elif drawn:
                shapes.append(
                    (value, [np.reshape(p, (-1, 2)) for p in drawn if len(p) >= 6 and len(p) % 2 == 0])
                )
            else:
                text = "it has a box only, a mask needs a polygon or run lengths"
                complaints.add("annotation without a segmentation", text, annotation.get("id"))
        rows.append((path, Path(masks) / Path(entry["file_name"]).with_suffix(".png"), shapes))
    for image_id in of_image:
        complaints.add("unknown image", f"annotations of image_id {image_id!r}, which is not among images")
    return _written(rows, {0: "background", **names}, complaints)


def from_yolo(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    masks: str | os.PathLike,
    *,
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Draw the masks of YOLO segmentation labels, and pair them with their pictures.

    Parameters
    ----------
    images, labels : folders
        ``images/a/7.jpg`` meets ``labels/a/7.txt``, whose lines are a class number and then x y pairs as
        shares of width and height. A picture without a file, or with an empty one, is background.
    masks : folder
        Gets a PNG for each picture: 0 for background, class + 1 else; later lines lie on top.
    names : class names in order, or class -> name, optional

    Returns
    -------
    DataFrame
        As :func:`from_coco`.

    Raises
    ------
    DataError
        Everything that is wrong with the files, by file and line.
    """
    root = Path(images)
    complaints = Complaints(str(labels))
    known = dict(names) if isinstance(names, Mapping) else dict(enumerate(names or ()))
    rows, seen = [], set()
    pictures = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES) if root.is_dir() else []
    for path in pictures:
        relative = path.relative_to(root)
        file = Path(labels) / relative.with_suffix(".txt")
        shapes = []
        for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), start=1):
            if line.strip():
                shape = _yolo_line(line, f"{file}, line {number}", complaints)
                shapes += [] if shape is None else [shape]
        seen |= {value for value, _ in shapes}
        rows.append((path, Path(masks) / relative.with_suffix(".png"), shapes))
    if names is not None:
        for value in sorted(seen - {k + 1 for k in known}):
            complaints.add("unknown class", f"class {value - 1} has no name in names={names!r}")
    classes = {k + 1: str(known.get(k, k)) for k in sorted({*known, *(v - 1 for v in seen)})}
    return _written(rows, {0: "background", **classes}, complaints, shares=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [content[key] for key in ("images", "annotations", "categories")]
        if not all(isinstance(r, list) and all(isinstance(x, dict) for x in r) for r in rows):
            raise TypeError("its images, annotations and categories must be lists of objects")
        for kind, fields in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
            for entry in content[kind]:
                for field in fields:
                    entry[field]
        for annotation in content["annotations"]:
            annotation["category_id"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except KeyError as error:
        raise DataError(f"{path} is no COCO file: it lacks {error}; see https://cocodataset.org.") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no COCO file: {error}. Export it again.") from error
    return content


def _yolo_line(line: str, where: str, complaints: Complaints) -> Shape | None:
    try:
        kind, *numbers = line.split()
        points = np.array([float(n) for n in numbers])
        value = int(kind) + 1
    except ValueError:
        complaints.add(
            "line of another form", f"{where}: {line[:40]!r} is not a class number and coordinates"
        )
        return None
    if len(points) == 4:
        complaints.add("box", f"{where}: a box, not a polygon; export segmentation labels")
    elif len(points) < 6 or len(points) % 2:
        complaints.add(
            "too few corners", f"{where}: {len(points)} coordinates; a polygon has 3 pairs or more"
        )
    elif value < 1 or not np.isfinite(points).all() or points.min() < -0.01 or points.max() > 1.01:
        complaints.add("out of range", f"{where}: classes are 0 or more, coordinates shares from 0 to 1")
    else:
        return value, [points.reshape(-1, 2)]
    return None


def _written(
    rows: Iterable[tuple[Path, Path, list[Shape]]],
    classes: dict[int, str],
    complaints: Complaints,
    *,
    shares: bool = False,
) -> pd.DataFrame:
    """Draw and write every mask; the table of paths."""
    out = []
    for image, mask, shapes in rows:
        try:
            size = image_size(image)
            drawn = draw_shapes(shapes, size, wide=max(classes) > 255, shares=shares)
        except DataError as error:
            complaints.add("unusable picture", str(error))
            continue
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(mask)
        out.append((str(image), str(mask)))
    if not out and not complaints:
        complaints.add("empty", "there is not one picture")
    complaints.raise_if_any()
    if max(classes) > 65535:
        raise ConfigError(f"Category ids are at most 65535 in a PNG, found {max(classes)}: renumber them.")
    table = pd.DataFrame(out, columns=["image", "label"])
    table.attrs["classes"] = classes
    return table


def draw_shapes(
    shapes: Sequence[Shape], size: tuple[int, int], *, wide: bool = False, shares: bool = False
) -> np.ndarray:
    """Draw polygons and run lengths over each other.

    Parameters
    ----------
    shapes : (value, polygons or run lengths), bottom first
        Polygons are (n, 2) as x, y in pixels (0, 0 is the picture's upper left corner, so that the first
        pixel's centre is at 0.5, 0.5), or as shares of width and height with ``shares``.
    size : (H, W)
    wide : 16 bits instead of 8

    Returns
    -------
    array, (H, W) uint8 or uint16
    """
    out = np.zeros(size, np.uint16 if wide else np.uint8)
    for value, shape in shapes:
        if isinstance(shape, Mapping):
            out[_runs(shape, size)] = value
            continue
        for polygon in shape:
            scaled = polygon * (size[1], size[0]) if shares else polygon
            for row, start, end in _spans(scaled, size):
                out[row, start:end] = value
    return out


def _spans(polygon: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """(row, first column, end) of the pixels of (H, W) whose centres lie inside a polygon (n, 2) of x, y.

    By the even-odd rule along each row of centres. (Pillow's polygons take in their outline: half a pixel too
    much on every side, 8 % of an object of 20 x 30 pixels.)
    """
    x0, y0 = np.asarray(polygon, np.float64).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    first, last = (int(np.clip(np.floor(y), 0, size[0] - 1)) for y in (y0.min(), y0.max()))
    for row in range(first, last + 1):
        middle = row + 0.5
        crossing = (y0 <= middle) != (y1 <= middle)
        a, b, c, d = x0[crossing], y0[crossing], x1[crossing], y1[crossing]
        where = np.sort(a + (middle - b) * (c - a) / (d - b))
        ends = np.clip(np.ceil(where - 0.5), 0, size[1]).astype(int)
        for start, end in zip(ends[::2], ends[1::2], strict=True):
            if end > start:
                yield row, int(start), int(end)


def _runs(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of COCO run lengths: alternately outside and inside, column after column."""
    if tuple(shape.get("size", ())) != size:
        raise DataError(f"run lengths for size {shape.get('size')} on a picture of {list(size)}")
    counts = shape.get("counts")
    if not isinstance(counts, list):
        try:
            coder = require("pycocotools.mask", extra="coco", purpose="A compressed run-length mask")
        except ConfigError as error:
            raise DataError(str(error)) from error
        return np.asarray(coder.decode(dict(shape)), bool)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    if inside.size != size[0] * size[1]:
        raise DataError(f"run lengths cover {inside.size} pixels of {size[0] * size[1]}")
    return inside.reshape(size[1], size[0]).T  # (W*H,) -> (W, H) -> (H, W)
