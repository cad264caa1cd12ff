"""Where on Earth a GeoTIFF lies: the tags that say so, taken as they are.

The tags are those of OGC GeoTIFF 1.1 (document 19-008r4), annexes B and C. They are copied, never
interpreted, so that any coordinate system is kept and no projection library is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from semseg_automl.data.remote import is_remote, open_binary
from semseg_automl.data.sources import Source, as_path
from semseg_automl.data.tiff import MAGIC, ORIENTATION, first_tags

_SCALE, _TIEPOINTS, _TRANSFORMATION = 33550, 33922, 34264
_KEYS, _NUMBERS, _TEXTS = 34735, 34736, 34737
_SHORT, _DOUBLE, _ASCII = 3, 12, 2
_TYPES = {_SCALE: _DOUBLE, _TIEPOINTS: _DOUBLE, _TRANSFORMATION: _DOUBLE, _KEYS: _SHORT, _NUMBERS: _DOUBLE}


@dataclass(frozen=True, kw_only=True)
class GeoTag:
    """One tag: its number, TIFF type (2 text, 3 uint16, 12 float64) and value (text, or numbers)."""

    code: int
    kind: int
    value: Any


def is_geotiff_name(source: Source) -> bool:
    """Whether it is a path that may be a GeoTIFF's. Files at URLs count as none: see :func:`georeference`."""
    if not isinstance(source, (str, os.PathLike)) or is_remote(source):
        return False
    return as_path(source).lower().endswith((".tif", ".tiff"))


def georeference(source: Source) -> tuple[GeoTag, ...]:
    """The tags that place a picture on Earth; none for a file without them, or one that can't be read.

    A picture whose pixels are turned by its orientation tag has none either, since the tags place the
    pixels as they are stored. Files at URLs are not looked at (each would be fetched once more).
    """
    if not is_geotiff_name(source):
        return ()
    try:
        with open_binary(as_path(source)) as file:  # type: ignore[arg-type]
            if file.read(4) not in MAGIC:
                return ()
            tags = first_tags(file)
    except Exception:  # a broken header: whoever reads the picture for its own sake says what is wrong
        return ()
    placed = _TRANSFORMATION in tags or _TIEPOINTS in tags
    if not placed or tags.get(ORIENTATION, 1) != 1:
        return ()
    found = [
        GeoTag(code=code, kind=kind, value=tuple(_several(tags[code])))
        for code, kind in _TYPES.items()
        if code in tags
    ]
    if _TEXTS in tags:
        found.append(GeoTag(code=_TEXTS, kind=_ASCII, value=str(tags[_TEXTS])))
    return tuple(found)


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
