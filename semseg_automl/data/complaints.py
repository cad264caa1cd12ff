"""Everything that is wrong with a table, gathered and raised as one error."""

from __future__ import annotations

from collections.abc import Iterable

from semseg_automl.core.errors import DataError

_SHOWN = 5
REMEDIES = {
    "missing": "Check the paths: relative ones start at the csv's folder, else at the working directory.",
    "no": "Fill the cells, or leave the rows out: table.dropna().",
    "unreachable": "Give URLs that can be read from here, or download the files and give their paths.",
    "unreadable": "Save or copy these files again, as PNG for example, or leave the rows out.",
    "unsupported": "Give paths, arrays (H, W) or (H, W, C), or PIL images.",
    "mask of": "A mask is as large as its picture: check the pairs, or resize masks without smoothing.",
    "masks of": "Masks of one picture are as large as it is: check the pairs.",
    "missing column": "Rename the column, or name it: image=..., label=... (in a shell --image, --label).",
    "ambiguous column": "Rename one of them.",
    "other separator": "Save the csv with commas, or pass pandas.read_csv(path, sep=...).",
    "missing file": "Check the path of the table.",
    "unreadable table": "Give a csv with a first line of column names, in UTF-8.",
    "empty mask": "Fill one of the cells (a mask of zeros: nothing is there), or leave the rows out.",
    "empty": "Give at least two rows, better some dozens.",
    "y": "Give one mask for each picture, in the same order.",
}
"""Kind of complaint, or its first word or words, -> what to do about it."""


class Complaints:
    """Complaints grouped by kind; each group shows its first rows and counts the rest.

    Parameters
    ----------
    subject : str
        What the complaints are about, e.g. ``"train_data"``.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._groups: dict[str, list[str]] = {}

    def add(self, kind: str, text: str, row: object = None) -> None:
        """Note one complaint; ``row`` is the row's label in the user's table (None: not a row's)."""
        self._groups.setdefault(kind, []).append(text if row is None else f"row {row!r}: {text}")

    def __bool__(self) -> bool:
        return bool(self._groups)

    def raise_if_any(self) -> None:
        """Raise one DataError with every kind of complaint, or do nothing."""
        if self._groups:
            raise DataError("\n".join([f"{self.subject} can't be used:", *self._lines()]))

    def _lines(self) -> Iterable[str]:
        for kind, texts in self._groups.items():
            more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
            count = f" ({len(texts)})" if len(texts) > 1 else ""
            yield f"- {kind}{count}: {_sentence('; '.join(texts[:_SHOWN]) + more)}{_remedy(kind)}"


def _sentence(text: str) -> str:
    """With one mark at its end."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _remedy(kind: str) -> str:
    words = kind.split()
    found = (REMEDIES.get(" ".join(words[:n])) for n in (2, 1))
    remedy = next((r for r in found if r), "")
    return f" {remedy}" if remedy else ""
