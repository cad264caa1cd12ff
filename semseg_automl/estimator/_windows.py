"""Tables of pictures so large that what is thin in them would vanish: training gets windows of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semseg_automl.artifacts.layout import replace_file
from semseg_automl.core.errors import DataError
from semseg_automl.core.log import get_logger
from semseg_automl.data.cutting import CutRule, cut_samples
from semseg_automl.data.frame import Samples
from semseg_automl.data.images import network_channels
from semseg_automl.data.remote import is_remote
from semseg_automl.data.sample_files import read_samples, write_samples
from semseg_automl.data.sources import MaskStack, as_path
from semseg_automl.estimator._tables import Tables
from semseg_automl.search.facts import fingerprint
from semseg_automl.search.planner import MAX_SIDE, Fingerprint, finest_pixels, wants_windows
from semseg_automl.search.run_folder import RunFolder

_LOG = get_logger("estimator")
FOLDER, LIST = "windows", "windows.json"
MOST = {"train": 4000, "val": 200}
"""Windows at most: some 8 GB of disk; as many validation pictures as a split takes."""
SHARE = {"train": 0.07, "val": 0.03}
"""Of the remaining time, after which no further picture is cut."""
DISK_SHARE = 0.5
"""Of the free disk that windows may fill, counted as if they were not compressed."""


def cut_large_pictures(
    tables: Tables, print_: Fingerprint, files: RunFolder, remaining: float, seed: int
) -> tuple[Tables, Fingerprint]:
    """Tables with windows in the place of large pictures, and their fingerprint; or both as they are.

    They stay where nothing would be lost. What an earlier run of the fit has cut is used again, and cut anew
    where the files have changed since; where it planned for whole pictures, they stay whole. Where cutting
    fails (a full disk, masks that a PNG can't hold) or there is no room, that is said and pictures are
    resized whole.
    """
    if files.path is None or not wants_windows(print_):
        return tables, print_
    lost = (
        f"Pictures of {print_.height} x {print_.width} pixels: resized to {MAX_SIDE}, their thinnest class "
        f"would be {finest_pixels(print_):.1f} pixels thick"
    )
    if network_channels(tables.scaling) > 3:
        _LOG.warning("%s. Pictures of more than three channels are not cut: cut them yourself.", lost)
        return tables, print_
    where = files.path / FOLDER
    found = _known(where, tables)
    if found is None and (not files.is_open or (where / LIST).is_file()):
        found = _cut(tables, where, remaining, seed, lost)
    if found is None:
        return tables, print_
    train, val = found
    _LOG.info(
        "%s. Training sees %d windows of at most %d, validation %d.", lost, len(train), MAX_SIDE, len(val)
    )
    windows = fingerprint(train, val, tables.label_map, tables.scan, tables.variety)
    cut = replace(windows, cut_from=(print_.height, print_.width))
    return replace(tables, train=train, val=val), cut


@contextlib.contextmanager
def windows_kept_for_resuming(files: RunFolder) -> Iterator[None]:
    """Remove the windows of a fit that ended, however, before there was a plan to go on with."""
    try:
        yield
    finally:
        if files.path is not None and not files.is_open:
            shutil.rmtree(files.path / FOLDER, ignore_errors=True)
            with contextlib.suppress(OSError):  # not there, or not empty
                files.path.rmdir()


def _cut(
    tables: Tables, where: Path, remaining: float, seed: int, lost: str
) -> tuple[Samples, Samples] | None:
    """Write the windows and a list of them; None if that failed."""
    parts = {"val": tables.val, "train": tables.train}
    found: dict[str, Samples] = {}
    try:
        shutil.rmtree(where, ignore_errors=True)  # of an earlier run
        where.mkdir(parents=True)
        room = int(DISK_SHARE * shutil.disk_usage(where).free / (MAX_SIDE * MAX_SIDE * 4))  # RGB and mask
        for name, samples in parts.items():
            most = min(max(MOST[name], len(samples)), room // 2)
            if most < len(samples):
                raise DataError(f"there is room for {2 * most} windows on the disk of {where}")
            rule = CutRule(side=MAX_SIDE, most=most, balanced=name == "train", seed=seed)
            folder = where / name
            folder.mkdir(exist_ok=True)
            until = time.monotonic() + SHARE[name] * remaining
            found[name] = cut_samples(samples, folder, tables.label_map, tables.scaling, rule, until)
            if not len(found[name]):
                raise DataError(f"no window of the {name} pictures holds a labelled pixel")
        stored: dict[str, Any] = {"of": _of(tables)}
        stored |= {name: write_samples(part, where / f"{name}.bin") for name, part in found.items()}
        replace_file(where / LIST, json.dumps(stored).encode())
    except (DataError, OSError) as error:
        _LOG.warning("%s, and they can't be cut (%s): small things may be missed.", lost, error)
        shutil.rmtree(where, ignore_errors=True)
        return None
    return found["train"], found["val"]


def _known(where: Path, tables: Tables) -> tuple[Samples, Samples] | None:
    """What an earlier run of this fit has cut, if it is complete and of these pictures."""
    try:
        stored = json.loads((where / LIST).read_text(encoding="utf-8"))
        if stored["of"] != _of(tables):
            return None
        train, val = (read_samples(stored[name], where / f"{name}.bin") for name in ("train", "val"))
    except (OSError, ValueError, KeyError, TypeError):  # nothing there, or cut short: it is cut anew
        return None
    return train, val


def _of(tables: Tables) -> list[Any]:
    """What tells a table's pictures and masks from others, also after a change, as JSON gives it back."""
    parts = (tables.train, tables.val)
    return [
        [[list(size), _stamp(image), _stamp(mask)] for size, image, mask in zip(*columns, strict=True)]
        for columns in ((part.sizes, part.images, part.masks or ()) for part in parts)
    ]


def _stamp(source: Any) -> Any:
    """A file's path, size and time of change; of pixels in memory a checksum."""
    if isinstance(source, MaskStack):
        return [_stamp(part) for part in source.parts]
    if source is None or (isinstance(source, str | os.PathLike) and is_remote(source)):
        return None if source is None else os.fspath(source)
    if isinstance(source, str | os.PathLike):
        facts = os.stat(as_path(source))
        return [as_path(source), facts.st_size, facts.st_mtime_ns]
    return zlib.crc32(np.ascontiguousarray(source).tobytes())
