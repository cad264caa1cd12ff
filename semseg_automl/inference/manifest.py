"""What became of each picture of a folder of masks: one line of JSON as soon as it is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from semseg_automl.core.errors import ArtifactError
from semseg_automl.core.log import get_logger

_log = get_logger("inference")


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished mask: the mark of what it was made from, and its file's size and time of change."""

    mark: str
    size: int
    changed: int


class Manifest:
    """Lines that are appended to one file, each in a single call, so that a crash loses none before it.

    A line is ``{"mask": file name, "image": path, "mark": ..., "bytes": ..., "changed": ...}`` for a
    finished mask and ``{"image": path, "error": text}`` for a picture that can't be read; the last
    line on a picture counts. Parts of one table that are predicted at the same time have a file each.

    Parameters
    ----------
    folder : where the masks lie
    shard : (i, n) or None
        Part i of n writes ``manifest-i-of-n.jsonl``, the whole table ``manifest.jsonl``.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.path = folder / ("manifest.jsonl" if shard is None else "manifest-{}-of-{}.jsonl".format(*shard))
        self._file: int | None = None

    def finished(self) -> dict[str, Entry]:
        """File name -> entry, from every manifest in the folder. A torn last line is passed over."""
        found: dict[str, Entry] = {}
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            try:
                with path.open(encoding="utf-8", errors="replace") as stream:
                    for line in stream:
                        _take(line, found)
            except OSError as error:
                _log.warning("%s can't be read (%s); the masks' own marks are.", path, error)
        return found

    def add(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises
        ------
        ArtifactError
            The file can't be written.
        """
        try:
            if self._file is None:
                self._file = self._open()
            os.write(self._file, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise ArtifactError(f"{self.path} can't be written: {error}") from error

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o666)
        size = os.fstat(file).st_size
        if size:
            os.lseek(file, size - 1, os.SEEK_SET)
            if os.read(file, 1) != b"\n":  # a line that a crash tore
                os.write(file, b"\n")
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _take(line: str, found: dict[str, Entry]) -> None:
    try:
        values = json.loads(line)
        found[str(values["mask"])] = Entry(str(values["mark"]), int(values["bytes"]), int(values["changed"]))
    except (ValueError, KeyError, TypeError):  # torn, or about a picture without a mask
        return
