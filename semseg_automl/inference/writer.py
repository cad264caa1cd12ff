"""Masks as PNG files, each written in one step; finished ones are recognised and skipped."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from semseg_automl.core.errors import ArtifactError, DataError
from semseg_automl.data.images import Source, as_path

_MARK = "semseg_automl"


class MaskWriter:
    """Write one PNG per picture into a folder.

    A file is named after its picture (``leaf.jpg`` -> ``leaf.png``); pictures that share a stem get
    a short hash of their full path as well, arrays and PIL images their position. Each PNG carries
    a mark made of ``key`` and its picture's path, size and time of change: a file with the right
    mark is finished and need not be computed again, any other is replaced.

    Parameters
    ----------
    folder
        Created if need be.
    sources
        All pictures of this call, in order.
    key
        Identifies what makes the masks (model version, test-time options). Masks of another key
        are replaced.

    Raises
    ------
    ArtifactError
        The folder can't be created.
    """

    def __init__(self, folder: str | os.PathLike[str], sources: Sequence[Source], *, key: str = "") -> None:
        self.folder = Path(folder)
        self.paths: tuple[Path, ...] = tuple(self.folder / name for name in output_names(sources))
        self._marks = [_mark(source, key) for source in sources]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"output_dir={str(self.folder)!r} can't be created: {error}") from error

    def unfinished(self) -> list[int]:
        """Positions whose mask is not there yet. Arrays and PIL images are never taken as finished."""
        marks = enumerate(zip(self.paths, self._marks, strict=True))
        return [i for i, (path, mark) in marks if mark is None or _read_mark(path) != mark]

    def write(self, position: int, mask: np.ndarray) -> Path:
        """Write one mask, (H, W) integers in 0..65535 or (H, W, 3) uint8, and return its path.

        Raises
        ------
        DataError
            Values that a PNG can't hold.
        ArtifactError
            The folder can't be written.
        """
        path, info = self.paths[position], PngImagePlugin.PngInfo()
        if self._marks[position] is not None:
            info.add_text(_MARK, str(self._marks[position]))
        picture = to_png_image(mask)
        temporary = self.folder / f".writing-{uuid.uuid4().hex}"  # not mkstemp: it ignores the umask
        try:
            with temporary.open("xb") as stream:
                picture.save(stream, format="PNG", pnginfo=info)
            os.replace(temporary, path)
        except OSError as error:
            raise ArtifactError(f"The mask {path} can't be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return path


def to_png_image(mask: np.ndarray) -> Image.Image:
    """8-bit grey, 16-bit grey or RGB picture of a mask, by its shape and largest value."""
    if mask.ndim == 3 and mask.shape[2] == 3 and mask.dtype == np.uint8:
        return Image.fromarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise DataError(f"A mask must be (H, W) integers or (H, W, 3) uint8, got {mask.shape} {mask.dtype}.")
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0 or high > 65535:
        raise DataError(
            f"A PNG holds values 0..65535, found {low}..{high}. predict without output_dir gives arrays."
        )
    # the dtype decides, not the picture's own values: all masks of one model get one format
    return Image.fromarray(mask.astype(np.uint8 if mask.dtype.itemsize == 1 else np.uint16))


def output_names(sources: Sequence[Source]) -> list[str]:
    """One distinct PNG file name per picture, independent of the order of the others."""
    stems = [_stem(source, i) for i, source in enumerate(sources)]
    often = Counter(stem.casefold() for stem in stems)  # some file systems ignore case
    names: list[str] = []
    taken: set[str] = set()
    for position, (source, stem) in enumerate(zip(sources, stems, strict=True)):
        name = stem
        if often[stem.casefold()] > 1 and isinstance(source, (str, os.PathLike)):
            name = f"{stem}-{hashlib.sha256(_full(source).encode()).hexdigest()[:8]}"
        if name.casefold() in taken:  # the same picture twice
            name = f"{name}-{position}"
        taken.add(name.casefold())
        names.append(name + ".png")
    return names


def _stem(source: Source, position: int) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return f"image_{position:06d}"
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", Path(as_path(source)).stem) or f"image_{position:06d}"


def _full(source: str | os.PathLike[str]) -> str:
    return os.path.abspath(as_path(source))


def _mark(source: Source, key: str) -> str | None:
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        state = os.stat(as_path(source))
    except OSError:
        return None
    text = "\n".join((key, _full(source), str(state.st_size), str(state.st_mtime_ns)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_mark(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            return picture.info.get(_MARK)
    except OSError:  # not there, or not a picture
        return None
