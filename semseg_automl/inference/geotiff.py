"""A mask as a GeoTIFF that lies where its picture does, written tile by tile.

With tifffile rather than rasterio: the tags are copied as they stand, which needs no GDAL, and tifffile
is a small package that TIFFs of more than three bands are read with anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from semseg_automl.core.errors import DataError
from semseg_automl.core.optional import require
from semseg_automl.data.georeference import GeoTag

TILE = 256
_CLASSIC = 2**32 - 2**25  # bytes that a TIFF can hold, less room for its directory


def tifffile() -> Any:
    """The package tifffile, or a ConfigError that names the extra."""
    return require("tifffile", extra="geo", purpose="A mask with its picture's georeference")


def write_geotiff(
    stream: BinaryIO,
    parts: Iterable[np.ndarray],
    size: tuple[int, int],
    tags: Sequence[GeoTag],
    *,
    mark: str = "",
    palette: Sequence[int] | None = None,
) -> None:
    """Write a deflated, tiled TIFF (a BigTIFF where it could outgrow 4 GiB).

    Parameters
    ----------
    stream : binary file, at its beginning
    parts : (n, W) uint8 or uint16, or (n, W, 3) uint8, from top to bottom; H rows in all
    size : (H, W)
    tags : of the picture
    mark : kept as the file's description
    palette : r, g, b of value 0, 1, ...; what else 8 bits can hold is black. Only 8-bit masks get it.

    Raises
    ------
    DataError
        More or fewer rows than H.
    ConfigError
        tifffile is not installed.
    """
    rows = iter(parts)
    first = next(rows, None)
    if first is None:
        raise DataError(f"0 of {size[0]} rows of a mask were computed.")
    shape, colour = (*size, *first.shape[2:]), first.ndim == 3
    options: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack"}
    if palette is not None and first.dtype == np.uint8 and not colour:
        colours = np.frombuffer(bytes(palette).ljust(3 * 256, b"\0"), np.uint8).reshape(256, 3)
        options = {"photometric": "palette", "colormap": colours.T.astype(np.uint16) * 257}  # (3, 256)
    extra = [(t.code, t.kind, 0 if isinstance(t.value, str) else len(t.value), t.value, True) for t in tags]
    big = int(np.prod(shape)) * first.dtype.itemsize > _CLASSIC
    with tifffile().TiffWriter(stream, bigtiff=big) as writer:
        writer.write(
            _tiles(chain([first], rows), size),
            shape=shape,
            dtype=first.dtype,
            tile=(TILE, TILE),
            compression="zlib",
            extratags=extra,
            description=mark,
            metadata=None,
            software=False,
            **options,
        )


def _tiles(parts: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Square tiles, row after row, filled up with zeros at the right and at the bottom."""
    held: list[np.ndarray] = []
    waiting = done = 0
    for part in parts:
        if part.shape[1] != size[1] or done + waiting + len(part) > size[0]:
            raise DataError(f"Rows of {part.shape} don't belong to a mask of {size}.")
        held.append(part)
        waiting += len(part)
        if waiting >= TILE:
            band = np.concatenate(held)
            whole = waiting - waiting % TILE
            yield from _cut(band[:whole])
            held, waiting, done = [band[whole:].copy()], waiting - whole, done + whole
    if done + waiting != size[0]:
        raise DataError(f"{done + waiting} of {size[0]} rows of a mask were computed.")
    if waiting:
        yield from _cut(np.concatenate(held))


def _cut(band: np.ndarray) -> Iterator[np.ndarray]:
    height, width = -band.shape[0] % TILE, -band.shape[1] % TILE
    band = np.pad(band, ((0, height), (0, width), *((0, 0),) * (band.ndim - 2)))
    for top in range(0, band.shape[0], TILE):
        for left in range(0, band.shape[1], TILE):
            yield np.ascontiguousarray(band[top : top + TILE, left : left + TILE])
