"""Samples on disk, for another process: paths stay paths, pictures in memory go into one plain file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from semseg_automl.core.errors import DataError
from semseg_automl.data.frame import Samples
from semseg_automl.data.images import describe, read_image
from semseg_automl.data.masks import MaskSource, read_raw_mask
from semseg_automl.data.sources import MaskStack, as_path

_ALIGNMENT = 64


def write_samples(samples: Samples, file: Path) -> dict[str, Any]:
    """Write the pictures that are not files one after another into ``file``.

    Arrays are written byte by byte as they are, PIL images as ``read_image`` and ``read_raw_mask``
    see them, so that reading them gives the same pixels. Nothing is pickled.

    Returns
    -------
    dict
        JSON-ready; what :func:`read_samples` needs besides the file. Row labels become text.

    Raises
    ------
    DataError
        A picture holds Python objects instead of numbers.
    """
    with file.open("wb") as stream:
        images = [_pack(source, read_image, stream) for source in samples.images]
        masks = None
        if samples.masks is not None:
            masks = [_pack(source, read_raw_mask, stream) for source in samples.masks]
    return {
        "images": images,
        "masks": masks,
        "sizes": [[int(s) for s in size] for size in samples.sizes],
        "rows": [str(label) for label in samples.index],
    }


def read_samples(stored: Mapping[str, Any], file: Path) -> Samples:
    """Inverse of :func:`write_samples`; arrays are read-only views into ``file``, read when needed.

    The processes that read one file share its memory.
    """
    flat = np.zeros(0, np.uint8)
    if file.stat().st_size:
        flat = np.asarray(np.memmap(file, np.uint8, mode="r"))
    masks = stored["masks"]
    return Samples(
        images=tuple(_unpack(cell, flat) for cell in stored["images"]),
        masks=None if masks is None else tuple(_unpack(cell, flat) for cell in masks),
        sizes=tuple((int(h), int(w)) for h, w in stored["sizes"]),
        index=pd.Index(stored["rows"], dtype=object),
    )


def in_files(samples: Samples) -> bool:
    """Whether every picture and mask is a file, so that other processes can read them without a copy."""
    return all(_is_file(source) for source in (*samples.images, *(samples.masks or ())))


def _is_file(source: MaskSource | None) -> bool:
    if isinstance(source, MaskStack):
        return all(_is_file(part) for part in source.parts)
    return source is None or isinstance(source, str | os.PathLike)


def anchored(samples: Samples) -> Samples:
    """The samples with absolute paths, for processes that work in another folder."""
    masks = samples.masks
    return replace(
        samples,
        images=tuple(_anchor(source) for source in samples.images),
        masks=None if masks is None else tuple(_anchor(source) for source in masks),
    )


def _anchor(source: Any) -> Any:
    if isinstance(source, MaskStack):
        return MaskStack(parts=tuple(None if part is None else _anchor(part) for part in source.parts))
    return os.path.abspath(as_path(source)) if isinstance(source, str | os.PathLike) else source


def _pack(source: MaskSource, decode: Callable[[Any], np.ndarray], stream: BinaryIO) -> str | dict[str, Any]:
    """A path as it is; for pixels in memory where in the stream they were put, and their form."""
    if isinstance(source, MaskStack):
        return {"parts": [None if p is None else _pack(p, decode, stream) for p in source.parts]}
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    array = np.ascontiguousarray(source if isinstance(source, np.ndarray) else decode(source))
    if array.dtype.hasobject:
        raise DataError(f"{describe(array)}: pictures hold integers, floats or booleans.")
    stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
    place = {"offset": stream.tell(), "shape": list(array.shape), "dtype": array.dtype.str}
    stream.write(array.reshape(-1).view(np.uint8))  # (H, W, C) -> (bytes,)
    return place


def _unpack(cell: str | Mapping[str, Any], flat: np.ndarray) -> Any:
    if isinstance(cell, str):
        return cell
    if "parts" in cell:
        return MaskStack(parts=tuple(None if p is None else _unpack(p, flat) for p in cell["parts"]))
    dtype = np.dtype(cell["dtype"])
    length = int(np.prod(cell["shape"])) * dtype.itemsize
    piece = flat[cell["offset"] : cell["offset"] + length]
    return piece.view(dtype).reshape(cell["shape"])  # (bytes,) -> (H, W, C)
