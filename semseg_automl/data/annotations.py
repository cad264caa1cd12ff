"""Polygons to masks: tables from COCO and YOLO annotations."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.complaints import Complaints
from semseg_automl.data.images import image_size
from semseg_automl.data.shapes import Shape, draw_shapes

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
_LOG = get_logger("data")


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """What belongs to one picture. ``size``: (H, W) that its annotations are for, where they say it."""

    image: Path
    name: Path
    shapes: list[Shape]
    size: tuple[int, int] | None = None


def from_coco(
    annotations: str | os.PathLike, images: str | os.PathLike, masks: str | os.PathLike
) -> pd.DataFrame:
    """Draw the masks of a COCO instance or stuff file, and pair them with its pictures.

    Parameters
    ----------
    annotations : JSON file with ``images``, ``annotations`` and ``categories``
    images : folder that ``file_name`` is relative to
    masks : folder
        Gets a PNG for each picture, of the same name (``a.jpg.png`` where there are an ``a.jpg`` and an
        ``a.png``): 0 for background, else the category's id (ids + 1 where a category has the id 0).
        Smaller objects lie on top. Polygons and run lengths are drawn; compressed run
        lengths need ``pip install 'semseg_automl[coco]'``.

    Returns
    -------
    DataFrame
        Columns image, label: paths as strings. ``attrs["classes"]``: value -> name, for ``classes=``.

    Raises
    ------
    DataError
        Everything that is wrong with the file, by picture and annotation id; pictures of another size
        than it says; a folder where a mask would replace a picture.
    """
    images, masks = Path(images).expanduser(), Path(masks).expanduser()
    content = _read_json(Path(annotations).expanduser())
    complaints = Complaints(str(annotations))
    shift = int(any(c["id"] == 0 for c in content["categories"]))
    names = {c["id"] + shift: str(c["name"]) for c in sorted(content["categories"], key=lambda c: c["id"])}
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation.get("image_id"), []).append(annotation)
    drawings = []
    for entry in content["images"]:
        found = sorted(of_image.pop(entry["id"], ()), key=lambda a: -float(a.get("area") or 0))
        shapes = [_coco_shape(annotation, shift, names, complaints) for annotation in found]
        path, height, width = images / entry["file_name"], entry.get("height"), entry.get("width")
        drawings.append(
            _Drawing(
                image=path,
                name=_below(path, images),
                shapes=[shape for shape in shapes if shape is not None],
                size=(int(height), int(width)) if height and width else None,
            )
        )
    for image_id in of_image:
        complaints.add("unknown image", f"annotations of image_id {image_id!r}, which is not among images")
    return _written(drawings, masks, {0: "background", **names}, complaints)


def _coco_shape(
    annotation: Mapping[str, Any], shift: int, names: Mapping[int, str], complaints: Complaints
) -> Shape | None:
    """The class and what is to be drawn of one annotation; None with a complaint, or for a mere line."""
    category, drawn, number = annotation["category_id"], annotation.get("segmentation"), annotation.get("id")
    try:
        value = int(category) + shift
    except (TypeError, ValueError):
        value = -1
    if value not in names:
        complaints.add("unknown category", f"category_id {category}", number)
        return None
    if isinstance(drawn, Mapping):
        return value, drawn
    if not drawn or drawn == [[]]:
        text = "it has a box only, a mask needs a polygon or run lengths"
        complaints.add("annotation without a segmentation", text, number)
        return None
    if not isinstance(drawn, list) or not all(_is_flat(polygon) for polygon in drawn):
        text = "a segmentation is a list of polygons [x1, y1, x2, y2, ...]"
        complaints.add("segmentation of another form", text, number)
        return None
    if polygons := [np.reshape(p, (-1, 2)) for p in drawn if len(p) >= 6 and len(p) % 2 == 0]:
        return value, polygons
    if all(len(polygon) == 4 for polygon in drawn):  # tools do write them, and they cover no pixel
        _LOG.warning("Annotation %s is left out: a line of two points has no inside.", number)
    else:
        complaints.add("too few corners", "a polygon has 3 pairs of coordinates or more", number)
    return None


def _is_flat(polygon: Any) -> bool:
    return isinstance(polygon, list) and all(isinstance(v, int | float) for v in polygon)


def _below(path: Path, folder: Path) -> Path:
    """The picture's place below its folder; of a picture that lies elsewhere the name alone."""
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(folder))
    except ValueError:
        return Path(path.name)


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
    root, texts = Path(images).expanduser(), Path(labels).expanduser()
    complaints = Complaints(str(labels))
    known = dict(names) if isinstance(names, Mapping) else dict(enumerate(names or ()))
    drawings, seen = [], set()
    pictures = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES) if root.is_dir() else []
    for path in pictures:
        relative = path.relative_to(root)
        file = texts / relative.with_suffix(".txt")
        shapes = []
        for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), start=1):
            if line.strip():
                shape = _yolo_line(line, f"{file}, line {number}", complaints)
                shapes += [] if shape is None else [shape]
        seen |= {value for value, _ in shapes}
        drawings.append(_Drawing(image=path, name=relative, shapes=shapes))
    if names is not None:
        for value in sorted(seen - {k + 1 for k in known}):
            complaints.add("unknown class", f"class {value - 1} has no name in names={names!r}")
    classes = {k + 1: str(known.get(k, k)) for k in sorted({*known, *(v - 1 for v in seen)})}
    places = Path(masks).expanduser()
    return _written(drawings, places, {0: "background", **classes}, complaints, shares=True)


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
        for category in content["categories"]:
            category["id"] = int(category["id"])
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
    drawings: Sequence[_Drawing],
    masks: Path,
    classes: dict[int, str],
    complaints: Complaints,
    *,
    shares: bool = False,
) -> pd.DataFrame:
    """Draw and write every mask; the table of paths. After a complaint nothing more is written."""
    places = _places(drawings, masks, complaints)
    out = []
    for drawing, place in zip(drawings, places, strict=True):
        try:
            size = image_size(drawing.image)
            _check_size(drawing, size)
            drawn = draw_shapes(drawing.shapes, size, wide=max(classes) > 255, shares=shares)
        except DataError as error:
            complaints.add("unusable picture", str(error))
            continue
        if not complaints:
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(place)
        out.append((str(drawing.image), str(place)))
    if not out and not complaints:
        complaints.add("empty", "there is not one picture")
    complaints.raise_if_any()
    if max(classes) > 65535:
        raise ConfigError(f"Category ids are at most 65535 in a PNG, found {max(classes)}: renumber them.")
    table = pd.DataFrame(out, columns=["image", "label"])
    table.attrs["classes"] = classes
    return table


def _places(drawings: Sequence[_Drawing], masks: Path, complaints: Complaints) -> list[Path]:
    """A PNG for each picture, named after it: ``a.png``, or ``a.jpg.png`` where several are called ``a``."""
    stems = Counter(str(drawing.name.with_suffix("")).casefold() for drawing in drawings)
    pictures = {_identity(drawing.image) for drawing in drawings}
    places: dict[str, Path] = {}
    out = []
    for drawing in drawings:
        alone = stems[str(drawing.name.with_suffix("")).casefold()] == 1
        name = drawing.name.with_suffix(".png") if alone else Path(f"{drawing.name}.png")
        place = masks / name
        if _identity(place) in pictures:
            complaints.add("mask in the place of a picture", f"{place}: give another folder for the masks")
        elif (other := places.setdefault(_identity(place), drawing.image)) is not drawing.image:
            complaints.add("two pictures with one mask", f"{other} and {drawing.image}, both {place}")
        out.append(place)
    return out


def _identity(path: Path) -> str:
    return os.path.realpath(path).casefold()  # some file systems ignore case


def _check_size(drawing: _Drawing, size: tuple[int, int]) -> None:
    """Refuse a picture of another size than its annotations are for: they would lie in the wrong place."""
    if drawing.size is None or drawing.size == size:
        return
    turned = "; it is turned by its EXIF orientation: save it turned" if drawing.size == size[::-1] else ""
    raise DataError(
        f"{drawing.image}: its annotations are for {drawing.size[1]} x {drawing.size[0]} pixels, "
        f"it has {size[1]} x {size[0]}{turned or '; scale one of them'}"
    )
