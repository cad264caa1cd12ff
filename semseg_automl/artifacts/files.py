"""Reading one file of a saved model: regular, of a known size, and nothing unpickled meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semseg_automl.artifacts.layout import VERSION_NAME
from semseg_automl.core.errors import ArtifactError

JSON_LIMIT = 16 * 2**20
"""Bytes that the pointer, the manifest and the summary may have."""

_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
_reading = threading.local()
_hook = threading.Lock()
_hooked: list[bool] = []


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Raises
    ------
    ArtifactError
        The file, or the version's folder around it, is a link; it is missing, no regular file (a
        pipe or a device is not waited for), larger than ``limit``, or can't be read.
    """
    try:
        if VERSION_NAME.fullmatch(path.parent.name) and not _is_plain_folder(path.parent):
            raise ArtifactError(f"{path.parent} is a link; a saved model consists of regular files.")
        kind = os.lstat(path).st_mode
        if not stat.S_ISREG(kind):
            what = "a link" if stat.S_ISLNK(kind) else "no regular file"
            raise ArtifactError(f"{path} is {what}; a saved model consists of regular files.")
        with open(os.open(path, _FLAGS), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limit:
                raise ArtifactError(
                    f"{path} has {size} bytes, at most {limit} are allowed: damaged, or not ours."
                )
            return stream.read(limit + 1)[: limit + 1]
    except FileNotFoundError as error:
        raise ArtifactError(f"The saved model is incomplete: {path} is missing.") from error
    except ArtifactError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ArtifactError(f"{path} can't be read: {error}") from error


def _is_plain_folder(folder: Path) -> bool:
    """Whether a path is a folder itself, and no link (or Windows junction) to one."""
    is_junction = getattr(os.path, "isjunction", None)  # Python 3.12
    return stat.S_ISDIR(os.lstat(folder).st_mode) and not (is_junction and is_junction(folder))


@contextlib.contextmanager
def no_unpickling() -> Iterator[None]:
    """Refuse, in this thread, every pickle that names a class or function: what could run code.

    Python tells audit hooks of each such name before it is looked up ("pickle.find_class"), so
    that this holds for pickles read by any library. Nothing here reads pickles; the hook makes
    that a promise. It is added on first use and can't be removed, but is idle outside.
    """
    with _hook:
        if not _hooked:
            sys.addaudithook(_refuse)
            _hooked.append(True)
    before = getattr(_reading, "depth", 0)
    _reading.depth = before + 1
    try:
        yield
    finally:
        _reading.depth = before


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and int(getattr(_reading, "depth", 0)):
        raise ArtifactError(
            f"A pickle ({'.'.join(map(str, arguments))}) was met while a saved model is read."
        )
