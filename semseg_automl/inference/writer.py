"""Masks as PNG files, each written in one step; finished ones are recognised and skipped."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from semseg_automl.core.errors import ArtifactError, DataError
from semseg_automl.data.images import Source, as_path
from semseg_automl.inference.manifest import Entry, Manifest

_MARK = "semseg_automl"


class MaskWriter:
    """Write one PNG per picture into a folder.

    A file is named after its picture (``leaf.jpg`` -> ``leaf.png``); pictures that share a stem get
    a short hash of their full path as well, arrays and PIL images their position. Each PNG carries
    a mark made of ``key`` and its picture's path, size and time of change (of a URL, the URL alone):
    a file with the right mark is finished and need not be computed again, any other is replaced.
    The folder's manifest tells the marks without opening the files; a mask that it does not know,
    or that was changed since, is asked itself.

    Parameters
    ----------
    folder
        Created if need be.
    sources
        All pictures of this call, in order.
    key
        Identifies what makes the masks (model version, test-time options). Masks of another key
        are replaced.
    shard
        See ``manifest.Manifest``.
    palette
        r, g, b of value 0, 1, ...: 8-bit masks are written as palette pictures with these colours.

    Raises
    ------
    ArtifactError
        The folder can't be created.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        sources: Sequence[Source],
        *,
        key: str = "",
        shard: tuple[int, int] | None = None,
        palette: Sequence[int] | None = None,
    ) -> None:
        self._palette = palette
        self.folder = Path(folder)
        self._sources, self._key = sources, key
        self._names = output_names(sources)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"output_dir={str(self.folder)!r} can't be created: {error}") from error
        self.manifest = Manifest(self.folder, shard)
        self._finished: dict[str, Entry] | None = None

    def path(self, position: int) -> Path:
        """Where the mask of a picture lies, or will."""
        return self.folder / self._names[position]

    def unfinished(self, positions: Iterable[int] | None = None) -> list[int]:
        """Those of ``positions`` (None: all) whose mask is not there yet.

        Arrays and PIL images are never taken as finished.
        """
        if self._finished is None:
            self._finished = self.manifest.finished()
        chosen = range(len(self._names)) if positions is None else positions
        return [i for i in chosen if not self._is_finished(i, self._finished)]

    def _is_finished(self, position: int, finished: Mapping[str, Entry]) -> bool:
        path, mark = self.path(position), _mark(self._sources[position], self._key)
        if mark is None:
            return False
        try:
            state = os.stat(path)
        except OSError:
            return False
        if finished.get(path.name) == Entry(mark, state.st_size, state.st_mtime_ns):
            return True
        if _read_mark(path) != mark:
            return False
        self._note(position, mark, state)
        return True

    def write(self, position: int, mask: np.ndarray) -> Path:
        """Write one mask, (H, W) integers in 0..65535 or (H, W, 3) uint8, and return its path.

        Raises
        ------
        DataError
            Values that a PNG can't hold.
        ArtifactError
            The folder can't be written.
        """
        path, info = self.path(position), PngImagePlugin.PngInfo()
        mark = _mark(self._sources[position], self._key)
        if mark is not None:
            info.add_text(_MARK, mark)
        picture = to_png_image(mask, self._palette)
        temporary = self.folder / f".writing-{uuid.uuid4().hex}"  # not mkstemp: it ignores the umask
        try:
            with temporary.open("xb") as stream:
                picture.save(stream, format="PNG", pnginfo=info)
            os.replace(temporary, path)
            state = os.stat(path)
        except OSError as error:
            raise ArtifactError(f"The mask {path} can't be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        self._note(position, mark, state)
        return path

    def fail(self, position: int, message: str) -> None:
        """Note that a picture can't be read; the next call tries it again."""
        self.manifest.add({"image": _shown(self._sources[position]), "error": message})

    def _note(self, position: int, mark: str | None, state: os.stat_result) -> None:
        line = {"mask": self._names[position], "image": _shown(self._sources[position]), "mark": mark}
        self.manifest.add({**line, "bytes": state.st_size, "changed": state.st_mtime_ns})


def to_png_image(mask: np.ndarray, palette: Sequence[int] | None = None) -> Image.Image:
    """8-bit grey (or palette), 16-bit grey or RGB picture of a mask, by its shape and largest value."""
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
    picture = Image.fromarray(mask.astype(np.uint8 if mask.dtype.itemsize == 1 else np.uint16))
    if palette is not None and picture.mode == "L":
        picture.putpalette(list(palette))  # the pixels stay, as indices
    return picture


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
    return str(source) if _is_remote(source) else os.path.abspath(as_path(source))


def _is_remote(source: Source) -> bool:
    return isinstance(source, str) and "://" in source and not source.lower().startswith("file:")


def _shown(source: Source) -> str | None:
    """What the manifest calls a picture; arrays and PIL images have no name."""
    return _full(source) if isinstance(source, (str, os.PathLike)) else None


def _mark(source: Source, key: str) -> str | None:
    if not isinstance(source, (str, os.PathLike)):
        return None
    parts = [key, _full(source)]
    if not _is_remote(source):
        try:
            state = os.stat(as_path(source))
        except OSError:
            return None
        parts += [str(state.st_size), str(state.st_mtime_ns)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read_mark(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            return picture.info.get(_MARK)
    except OSError:  # not there, or not a picture
        return None
