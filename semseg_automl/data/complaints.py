"""Everything that is wrong with a table, gathered and raised as one error."""

from __future__ import annotations

from collections.abc import Iterable

from semseg_automl.core.errors import DataError

_SHOWN = 5


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
            yield f"- {kind}{count}: {'; '.join(texts[:_SHOWN])}{more}"
