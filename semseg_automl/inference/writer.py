"""Masks as PNGs (of GeoTIFFs as GeoTIFFs), each written in one step; finished ones are known and skipped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from semseg_automl.core.errors import ArtifactError, ConfigError, DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.georeference import georeference, is_geotiff_name
from semseg_automl.data.images import Source, as_path, parallel
from semseg_automl.data.remote import is_remote
from semseg_automl.inference.geotiff import tifffile, write_geotiff
from semseg_automl.inference.manifest import Entry, Manifest
from semseg_automl.inference.png_rows import PngRows
from semseg_automl.inference.tiled import MaskRows

_MARK = "semseg_automl"
_WRITING, _STALE = ".writing-", 3600.0
_TIFF, _DESCRIPTION = ".tif", 270
_LOG = get_logger("inference")


class MaskWriter:
    """Write one PNG per picture into a folder; of a GeoTIFF a GeoTIFF, where tifffile is installed.

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
    ConfigError
        A mask would replace one of the pictures.
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
        self.folder = Path(folder).expanduser()
        self._sources, self._key = sources, key
        self._names = output_names(sources, _georeferenced(sources))
        _spare_pictures(self.folder, sources, self._names)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"output_dir={str(self.folder)!r} can't be created: {error}. Give a folder you may write to."
            ) from error
        _sweep(self.folder)
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
        if self._is_geotiff(position):
            return self.write_rows(position, MaskRows(size=mask.shape[:2], parts=iter([mask])))
        info = PngImagePlugin.PngInfo()
        mark = _mark(self._sources[position], self._key)
        if mark is not None:
            info.add_text(_MARK, mark)
        picture = to_png_image(mask, self._palette)
        return self._put(position, mark, lambda stream: picture.save(stream, format="PNG", pnginfo=info))

    def write_rows(self, position: int, mask: MaskRows) -> Path:
        """As :meth:`write`, of a mask that is computed while it is written."""
        mark = _mark(self._sources[position], self._key)

        def fill(stream: BinaryIO) -> None:
            parts = map(_png_values, mask.parts)
            if self._is_geotiff(position):
                tags, words = georeference(self._sources[position]), f"{_MARK} {mark}"
                write_geotiff(stream, parts, mask.size, tags, mark=words, palette=self._palette)
                return
            text = {} if mark is None else {_MARK: mark}
            picture = PngRows(stream, mask.size, text=text, palette=self._palette)
            for rows in parts:
                picture.add(rows)
            picture.close()

        return self._put(position, mark, fill)

    def _is_geotiff(self, position: int) -> bool:
        return self._names[position].endswith(_TIFF)

    def _put(self, position: int, mark: str | None, fill: Callable[[BinaryIO], None]) -> Path:
        """Write a file beside its place, move it there in one step, and note it."""
        path = self.path(position)
        temporary = self.folder / f"{_WRITING}{uuid.uuid4().hex}"  # not mkstemp: it ignores the umask
        try:
            with temporary.open("xb") as stream:
                fill(stream)
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
    picture = Image.fromarray(_png_values(mask))
    if palette is not None and picture.mode == "L":
        # the pixels stay, as indices; a shorter palette would be saved with fewer bits than they need
        picture.putpalette(bytes(palette).ljust(3 * 256, b"\0"))
    return picture


def _png_values(mask: np.ndarray) -> np.ndarray:
    """A mask in the dtype that its PNG has."""
    if mask.ndim == 3 and mask.shape[2] == 3 and mask.dtype == np.uint8:
        return mask
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise DataError(f"A mask must be (H, W) integers or (H, W, 3) uint8, got {mask.shape} {mask.dtype}.")
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0 or high > 65535:
        raise DataError(
            f"A PNG holds values 0..65535, found {low}..{high}. predict without output_dir gives arrays."
        )
    # the dtype decides, not the picture's own values: all masks of one model get one format
    return mask.astype(np.uint8 if mask.dtype.itemsize == 1 else np.uint16)


def _georeferenced(sources: Sequence[Source]) -> set[int]:
    """Positions of the pictures whose masks are GeoTIFFs; told where a package for them is missing."""
    named = [i for i, source in enumerate(sources) if is_geotiff_name(source)]
    found = parallel(lambda i: bool(georeference(sources[i])), named)
    placed = {i for i, there in zip(named, found, strict=True) if there}
    if placed:
        try:
            tifffile()
        except ConfigError as error:
            _LOG.warning("The masks of %d GeoTIFFs are written as PNG. %s", len(placed), error)
            return set()
    return placed


def output_names(sources: Sequence[Source], geotiffs: Collection[int] = ()) -> list[str]:
    """One distinct file name per picture, independent of the order of the others.

    PNGs, but for the positions in ``geotiffs``.
    """
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
        names.append(name + (_TIFF if position in geotiffs else ".png"))
    return names


def _spare_pictures(folder: Path, sources: Sequence[Source], names: Sequence[str]) -> None:
    """Refuse a folder in which a mask would take a picture's name: the picture would be lost."""
    taken = {name.casefold() for name in names}  # some file systems ignore case
    here = os.path.realpath(folder)
    parents: dict[str, str] = {}
    for source in sources:
        if not isinstance(source, (str, os.PathLike)) or is_remote(source):
            continue
        parent, name = os.path.split(_full(source))
        if name.casefold() in taken and parents.setdefault(parent, os.path.realpath(parent)) == here:
            raise ConfigError(
                f"output_dir={str(folder)!r} holds the pictures themselves: a mask would replace {name}. "
                "Give another folder."
            )


def _sweep(folder: Path) -> None:
    """Remove what a killed process was writing: files that nobody has added to for an hour."""
    for path in folder.glob(_WRITING + "*"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _stem(source: Source, position: int) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return f"image_{position:06d}"
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", Path(as_path(source)).stem) or f"image_{position:06d}"


def _full(source: str | os.PathLike[str]) -> str:
    return str(source) if is_remote(source) else os.path.abspath(as_path(source))


def _shown(source: Source) -> str | None:
    """What the manifest calls a picture; arrays and PIL images have no name."""
    return _full(source) if isinstance(source, (str, os.PathLike)) else None


def _mark(source: Source, key: str) -> str | None:
    if not isinstance(source, (str, os.PathLike)):
        return None
    parts = [key, _full(source)]
    if not is_remote(source):
        try:
            state = os.stat(as_path(source))
        except OSError:
            return None
        parts += [str(state.st_size), str(state.st_mtime_ns)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read_mark(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            if isinstance(picture, TiffImagePlugin.TiffImageFile):
                return str(picture.tag_v2.get(_DESCRIPTION, "")).removeprefix(f"{_MARK} ")
            return picture.info.get(_MARK)
    except (OSError, Image.DecompressionBombError):  # not there, not a picture, or one too large to look at
        return None
