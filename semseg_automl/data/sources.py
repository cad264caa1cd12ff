"""What a cell of a table may be, and how it is called in messages."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image
from tqdm import tqdm

from semseg_automl.core.hardware import usable_cores
from semseg_automl.core.log import get_logger

Source = str | os.PathLike | np.ndarray | Image.Image


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskStack:
    """A picture's masks of one class each: value k + 1 where ``parts[k]`` is not 0, else 0.

    Where parts overlap the later one counts. A part that is None has no pixel in this picture.
    """

    parts: tuple[Source | None, ...]


_T = TypeVar("_T")
_R = TypeVar("_R")
_MANY = 2000
_BLOCK, _TRIED = 512, 8
_SHORT = 1e-3  # seconds an item, from which threads are worth it
_log = get_logger("data")


def as_path(source: str | os.PathLike) -> str:
    """Path of a string or path-like; ``file://`` URLs are turned into paths, ``~`` is expanded."""
    text = os.fspath(source)
    if text.lower().startswith("file:"):
        parts = urlsplit(text)
        host = "" if parts.netloc in ("", "localhost") else f"//{parts.netloc}"
        return url2pathname(host + parts.path)
    return os.path.expanduser(text)


def describe(source: Source | MaskStack) -> str:
    """How a picture is called in messages: its path, or what kind of object it is."""
    if isinstance(source, MaskStack):
        return ", ".join(describe(part) for part in source.parts if part is not None)
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape} and dtype {source.dtype}"
    if isinstance(source, Image.Image):
        return f"PIL image of size {source.size} and mode {source.mode}"
    return as_path(source)


def parallel(function: Callable[[_T], _R], items: Sequence[_T], *, title: str | None = None) -> list[_R]:
    """``[function(i) for i in items]``, in threads where there are many that take long.

    Decoding and waiting release the GIL, the rest doesn't: of small files, threads only stand in each
    other's way (6,000 masks of 128 x 128: 1.4 s one by one, 2.5 s in two threads). ``title``: shown with a
    progress bar where there are thousands of items and progress is logged.
    """
    if len(items) < 32:
        return [function(item) for item in items]
    shown = title is not None and len(items) >= _MANY and _log.isEnabledFor(logging.INFO)
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        found = _by_blocks(function, items, pool)
        return list(tqdm(found, title, len(items), disable=not shown, leave=False))


def _by_blocks(function: Callable[[_T], _R], items: Sequence[_T], pool: ThreadPoolExecutor) -> Iterator[_R]:
    """Of each block the first few tell whether the rest goes to the pool."""
    for start in range(0, len(items), _BLOCK):
        first, rest = items[start : start + _TRIED], items[start + _TRIED : start + _BLOCK]
        began = time.perf_counter()
        yield from [function(item) for item in first]
        is_short = time.perf_counter() - began < _SHORT * len(first)
        yield from map(function, rest) if is_short else pool.map(function, rest)
