"""A PNG that is written a few rows at a time, so that a huge mask is never held."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np

from semseg_automl.core.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _INDEXED = 0, 2, 3
_UP = b"\x02"  # each byte minus the one above it: masks compress well so


class PngRows:
    """An 8-bit grey or palette, 16-bit grey or RGB PNG (PNG specification, third edition), top to bottom.

    Parameters
    ----------
    stream : binary file, at its beginning
    size : (H, W)
    text : keyword -> value, Latin-1, written before the pixels
    palette : r, g, b of value 0, 1, ...; what else 8 bits can hold is black. Only 8-bit grey rows get it.
    """

    def __init__(
        self,
        stream: BinaryIO,
        size: tuple[int, int],
        *,
        text: Mapping[str, str] | None = None,
        palette: Sequence[int] | None = None,
    ) -> None:
        self._stream, self._size, self._text = stream, size, dict(text or {})
        self._palette = None if palette is None else bytes(palette).ljust(3 * 256, b"\0")
        self._packer = zlib.compressobj(6)
        self._above: np.ndarray | None = None
        self._layout: tuple[int, int] | None = None
        self._done = 0

    def add(self, rows: np.ndarray) -> None:
        """Append (n, W) uint8 or uint16, or (n, W, 3) uint8; the first rows decide which.

        Raises
        ------
        DataError
            Other rows than these, or than the first ones; more than H.
        """
        layout = {(2, "uint8"): (8, _GREY), (2, "uint16"): (16, _GREY), (3, "uint8"): (8, _COLOUR)}
        found = layout.get((rows.ndim, rows.dtype.name))
        fits = rows.shape[1] == self._size[1] and rows.shape[2:] in ((), (3,))
        if found is None or not fits or self._done + len(rows) > self._size[0]:
            raise DataError(f"Rows of {rows.shape} {rows.dtype} don't belong to a PNG of {self._size}.")
        if self._layout is None:
            self._begin(*found)
        elif self._layout != found:
            raise DataError(f"Rows of {rows.dtype} after others in one PNG.")
        plain = rows.astype(">u2").view(np.uint8) if rows.dtype == np.uint16 else rows
        plain = np.ascontiguousarray(plain).reshape(len(rows), -1)  # (n, W, ...) -> (n, bytes of a row)
        above = np.zeros((1, plain.shape[1]), np.uint8) if self._above is None else self._above
        lines = plain - np.concatenate([above, plain[:-1]])  # modulo 256
        self._above = plain[-1:].copy()
        packed = self._packer.compress(b"".join(_UP + line.tobytes() for line in lines))
        if packed:
            self._chunk(b"IDAT", packed)
        self._done += len(rows)

    def close(self) -> None:
        """Write the end; the stream stays open.

        Raises
        ------
        DataError
            Rows are missing.
        """
        if self._done != self._size[0]:
            raise DataError(f"{self._done} of {self._size[0]} rows of a mask were computed.")
        self._chunk(b"IDAT", self._packer.flush())
        self._chunk(b"IEND", b"")

    def _begin(self, bits: int, kind: int) -> None:
        self._layout = bits, kind
        self._stream.write(_SIGNATURE)
        colours = self._palette if (bits, kind) == (8, _GREY) else None
        kind = kind if colours is None else _INDEXED
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", self._size[1], self._size[0], bits, kind, 0, 0, 0))
        if colours is not None:
            self._chunk(b"PLTE", colours)
        for keyword, value in self._text.items():
            self._chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + value.encode("latin-1"))

    def _chunk(self, name: bytes, content: bytes) -> None:
        self._stream.write(struct.pack(">I", len(content)) + name + content)
        self._stream.write(struct.pack(">I", zlib.crc32(name + content)))
