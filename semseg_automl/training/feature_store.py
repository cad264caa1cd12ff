"""A bounded folder of feature maps that many processes share: one memory-mapped file for each entry.

An entry is written under a name of its own and then renamed, so a reader finds all of it or nothing,
and two processes that write the same entry write the same bytes. Names are hashes of everything that
an entry depends on (see ``feature_cache``): an entry can't become stale, at most unused.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from semseg_automl.core.hardware import detect
from semseg_automl.core.log import get_logger

_LOG = get_logger("training")
_DISK_SHARE, _MEMORY_SHARE = 0.25, 0.5
_PREFIX = ".features-"
_RECOUNT = 64  # writes after which the folder's size, which other processes change too, is taken anew


def default_limit(folder: Path) -> int:
    """Bytes that a store in ``folder`` may take.

    A quarter of the free disk, and no more than half of the free memory (where the system tells it):
    files beyond that would leave the page cache before they are read again.
    """
    found = detect(folder)
    disk = int(_DISK_SHARE * found.disk_free)
    return disk if found.memory_available is None else min(disk, int(_MEMORY_SHARE * found.memory_available))


class FeatureStore:
    """Maps of one kind under one folder.

    Parameters
    ----------
    folder : created if needed
    limit : bytes that all files below ``folder`` together may take; None: :func:`default_limit`.

    Attributes
    ----------
    writable : False from the first failed write on; entries that are there are still read.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder
        self.writable = True
        self._numbers = itertools.count()
        self._limit = self._used = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._limit = default_limit(folder) if limit is None else limit
            self._used = self._measure()
        except OSError as error:
            self._give_up(error)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The maps of an entry, read from its file as they are used; None where it isn't there or broken."""
        try:
            return load_file(self._path(key))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            _LOG.debug("Feature cache: entry %s can't be read: %s", key, error)
            return None

    def put(self, key: str, maps: dict[str, Tensor]) -> bool:
        """Keep the maps, on the CPU, if there is room; returns whether they were written."""
        size = sum(x.nbytes for x in maps.values())
        if not self.writable or self._used + size > self._limit:
            return False
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            _write_whole(path, save({name: x.contiguous() for name, x in maps.items()}))
        except OSError as error:
            if path.exists():  # another process was faster, and has the file open (Windows)
                return True
            self._give_up(error)
            return False
        self._used += size
        if next(self._numbers) % _RECOUNT == _RECOUNT - 1:
            self._used = self._measure()
        return True

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _measure(self) -> int:
        return sum(_size(Path(place) / name) for place, _, names in os.walk(self.folder) for name in names)

    def _give_up(self, error: OSError) -> None:
        self.writable = False
        _LOG.warning(
            "Feature cache in %s: %s. Features that are not there yet are computed anew every time; "
            "free disk space to have them kept.",
            self.folder,
            error,
        )


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    handle, scratch = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(scratch, path)
    except OSError:
        Path(scratch).unlink(missing_ok=True)
        raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process renamed it meanwhile
        return 0


def make_store_folder(parent: Path) -> str | None:
    """A new folder for a store under ``parent``; None, with a warning, where it can't be written.

    Folders that fits left there which were killed are deleted: one fit at a time holds ``parent``.
    """
    try:
        for old in parent.glob(f"{_PREFIX}*"):
            remove_store_folder(str(old))
        return tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    except OSError as error:
        _LOG.warning("No feature cache: no folder can be made in %s: %s.", parent, error)
        return None


def remove_store_folder(folder: str | None) -> None:
    """Delete a store's files."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def stack(entries: list[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Entries of one picture each, (1, h, w, C) by name, as one batch (B, h, w, C) on ``device``."""
    return {name: torch.cat([entry[name].to(device) for entry in entries]) for name in entries[0]}
