"""Files at URLs (s3, gs, http, whatever fsspec knows), read whole and kept for a moment."""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from threading import Lock
from typing import Any, BinaryIO

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.core.optional import require

_URL = re.compile(r"(?!file://)([a-z][a-z0-9+.\-]*::)*[a-z][a-z0-9+.\-]+://", re.IGNORECASE)
KEPT_BYTES = 256 * 2**20
"""Content that is kept, so that a picture that was checked is not fetched again to be decoded."""


def is_remote(source: Any) -> bool:
    """Whether it is a URL other than ``file://`` (chained ones such as ``simplecache::s3://`` too)."""
    return isinstance(source, str) and _URL.match(source) is not None


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading; of a URL, its content in memory.

    Raises
    ------
    DataError
        The content of the URL can't be had; without the URL.
    OSError
        As ``open`` does; FileNotFoundError for a URL where nothing is.
    """
    return io.BytesIO(_KEPT.get(path)) if is_remote(path) else open(path, "rb")


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file, which stands at its beginning afterwards."""
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    return total


class _Kept:
    """The content of the URLs that were read last, ``KEPT_BYTES`` at most."""

    def __init__(self) -> None:
        self._content: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()
        self._size = 0

    def get(self, url: str) -> bytes:
        """The content of a URL; threads fetch side by side."""
        with self._lock:
            if url in self._content:
                self._content.move_to_end(url)
                return self._content[url]
        content = _fetch(url)
        with self._lock:
            if url not in self._content and len(content) <= KEPT_BYTES:
                self._content[url] = content
                self._size += len(content)
                while self._size > KEPT_BYTES:
                    self._size -= len(self._content.popitem(last=False)[1])
        return content

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._content.clear()
            self._size = 0


_KEPT = _Kept()


def forget() -> None:
    """Drop what is kept of files that may have changed since."""
    _KEPT.clear()


def _fetch(url: str) -> bytes:
    try:
        fsspec = require("fsspec", extra="remote", purpose="A picture at a URL")
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        cause = _first_cause(error)
        if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == 404:
            raise
        raise _unreachable(cause) from error
    except ConfigError as error:
        raise DataError(str(error)) from error
    except ImportError as error:  # fsspec knows the scheme, and its package is missing
        raise DataError(
            f"{error}. Packages for s3, gs and http come with: pip install 'semseg_automl[remote]'"
        ) from error
    except Exception as error:  # each scheme's package has errors of its own
        raise _unreachable(error) from error


def _first_cause(error: BaseException) -> BaseException:
    """What was raised first: fsspec calls a server that can't be reached a missing file, too."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _unreachable(error: BaseException) -> DataError:
    return DataError(
        f"can't be fetched ({type(error).__name__}: {error}): check the URL, the network and the credentials"
    )
