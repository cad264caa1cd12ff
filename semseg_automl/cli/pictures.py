"""What ``predict`` takes for pictures: files, folders, and patterns that the shell left as they were."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from semseg_automl.core.errors import ConfigError, DataError
from semseg_automl.data.datasets import PICTURE_SUFFIXES

TABLES = (".csv", ".tsv")


def table_or_pictures(given: Sequence[str], output_dir: str) -> str | list[str]:
    """The one table, or paths of pictures.

    A folder stands for the pictures in it (those in its subfolders are left out), and a pattern such as
    ``*.jpg`` for the files that it matches: not every shell does that itself. All else, URLs for example,
    is left for the estimator to judge.

    Raises
    ------
    DataError
        A table beside other things, a folder without pictures, or a pattern that no file matches.
    ConfigError
        ``output_dir`` is a folder of pictures: the next time its masks would be taken for pictures.
    """
    tables = [word for word in given if word.lower().endswith(TABLES)]
    if tables and len(given) > 1:
        raise DataError(f"{tables[0]!r} is a table: give it alone, or pictures without a table.")
    if tables:
        return tables[0]
    if os.path.realpath(output_dir) in {os.path.realpath(word) for word in given}:
        raise ConfigError(f"--output-dir {output_dir!r} is a folder of the pictures. Give another one.")
    return [path for word in given for path in _paths(word)]


def _paths(word: str) -> list[str]:
    if os.path.isdir(word):
        found = sorted(str(path) for path in Path(word).iterdir() if _is_picture(path))
        if not found:
            known = ", ".join(sorted(PICTURE_SUFFIXES))
            raise DataError(f"The folder {word!r} holds no picture ({known}). Subfolders are not searched.")
        return found
    if glob.has_magic(word) and "://" not in word and not os.path.exists(word):
        found = sorted(glob.glob(word))
        if not found:
            raise DataError(f"No file matches {word!r}. Check the path.")
        return found
    return [word]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
