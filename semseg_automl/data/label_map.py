"""Raw mask values to class indices and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from semseg_automl.core.errors import ConfigError, DataError, unknown_name
from semseg_automl.data.masks import Value, count_values, pack

IGNORE = -1
PROBLEM_TYPES = ("binary", "multiclass")
_NO_CODE = -(2**40)


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Raw value <-> class index. ``values[k]`` and ``names[k]`` belong to class k.

    Attributes
    ----------
    problem_type : "binary" (class 0 background, class 1 foreground) or "multiclass"
    names : K class names
    values : K raw values, all ints or all (r, g, b)
    ignore : raw value that is no class, or None
    merged : further raw values, each with its class index, or with IGNORE
        Read like the class's own value; predictions are written with ``values`` only.
    palette : r, g, b of raw value 0, 1, ..., for written predictions; None: they have no palette
    """

    problem_type: str
    names: tuple[str, ...]
    values: tuple[Value, ...]
    ignore: Value | None = None
    merged: tuple[tuple[Value, int], ...] = ()
    palette: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.problem_type not in PROBLEM_TYPES:
            raise unknown_name("problem_type", self.problem_type, PROBLEM_TYPES)
        if len(self.names) != len(self.values) or len(set(self.values)) != len(self.values):
            raise ConfigError(
                f"Classes need one name per distinct value, got {self.names} for {self.values}."
            )
        if len(self.values) < 2 or (self.problem_type == "binary" and len(self.values) != 2):
            raise ConfigError(f"A {self.problem_type} problem can't have {len(self.values)} classes.")
        if len({isinstance(v, tuple) for v in self.values}) > 1:
            raise ConfigError(f"Class values are all integers or all colours, got {self.values}.")
        extra = [value for value, _ in self.merged]
        if len({*self.values, *extra}) != len(self.values) + len(extra):
            raise ConfigError(f"A mask value belongs to one class: {self.values} and {extra} overlap.")
        if self.ignore in self.values:
            raise ConfigError(f"The value {self.ignore!r} can't be a class and ignored as well.")

    @property
    def n_classes(self) -> int:
        """K; 2 for a binary problem."""
        return len(self.values)

    @property
    def num_outputs(self) -> int:
        """Channels of logits: 1 (foreground) for a binary problem, else K."""
        return 1 if self.problem_type == "binary" else self.n_classes

    @cached_property
    def class_of(self) -> dict[Value, int]:
        """Class index, or IGNORE, of every raw value that is spoken of; ``ignore`` itself is not in it."""
        return {**{value: k for k, value in enumerate(self.values)}, **dict(self.merged)}

    @property
    def colours(self) -> bool:
        """True if raw values are (r, g, b)."""
        return isinstance(self.values[0], tuple)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Class indices (H, W) int16 of a raw mask; IGNORE where the value is ignored or unseen.

        ``raw`` is what :func:`read_raw_mask` returns: (H, W) bool or integers, or (H, W, 3) uint8.
        Grey colours and ints are taken for each other.
        """
        codes = self._codes(raw)
        known, indices = self._tables
        if codes.dtype in (np.uint8, np.uint16):  # few possible codes: look up
            table = np.full(np.iinfo(codes.dtype).max + 1, IGNORE, np.int16)
            inside = (known >= 0) & (known < table.size)
            table[known[inside]] = indices[inside]
            return table[codes]
        place = np.minimum(np.searchsorted(known, codes), known.size - 1)
        return np.where(known[place] == codes, indices[place], np.int16(IGNORE))

    def index_of(self, value: Value, *, boolean: bool = False) -> int | None:
        """Class index, or IGNORE, of a raw value in the sense of :meth:`encode`; None for one it never saw.

        ``boolean``: whether it is of a boolean mask, whose 1 may be this map's 255.
        """
        code = self._code(self._true(value) if boolean else value)
        if self.ignore is not None and code == self._code(self.ignore):
            return IGNORE
        return self._index_of_code.get(code)

    def unknown_values(self, raw: np.ndarray) -> set[Value]:
        """Raw values of a mask that are neither a class nor ignored."""
        known = {self._code(v) for v in self.class_of}
        if self.ignore is not None:
            known.add(self._code(self.ignore))
        found = count_values(raw)
        return {v for v in found if self._code(self._true(v) if raw.dtype == bool else v) not in known}

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Raw-value mask of class indices (H, W).

        Returns
        -------
        array, (H, W) of the smallest unsigned dtype that holds every class value (signed if one is
        negative), or (H, W, 3) uint8 for colours. IGNORE becomes the ignored value.

        Raises
        ------
        DataError
            For an index outside 0..K-1, or IGNORE where no value is ignored.
        """
        indices = np.asarray(indices)
        if indices.size and (indices.min() < IGNORE or indices.max() >= self.n_classes):
            raise DataError(
                f"Class indices are 0..{self.n_classes - 1}, found {indices.min()}..{indices.max()}."
            )
        values = list(self.values)
        if indices.size and indices.min() == IGNORE:
            if self.ignore is None:
                raise DataError("A mask with ignored pixels can't be written: no raw value means 'ignored'.")
            values.append(self.ignore)  # index -1 is the last
        if self.colours:
            return np.array(values, np.uint8)[indices]  # (K, 3)[(H, W)] -> (H, W, 3)
        return np.array(values, np.result_type(*(np.min_scalar_type(v) for v in values)))[indices]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict (colours as lists)."""

        def plain(value: Value | None) -> Any:
            return list(value) if isinstance(value, tuple) else value

        stored: dict[str, Any] = {
            "problem_type": self.problem_type,
            "names": list(self.names),
            "values": [plain(v) for v in self.values],
            "ignore": plain(self.ignore),
        }
        if self.merged:
            stored["merged"] = [[plain(value), k] for value, k in self.merged]
        if self.palette:
            stored["palette"] = list(self.palette)
        return stored

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelMap:
        """Inverse of :meth:`to_json`."""
        return cls(
            problem_type=data["problem_type"],
            names=tuple(str(name) for name in data["names"]),
            values=tuple(as_value(v) for v in data["values"]),
            ignore=None if data["ignore"] is None else as_value(data["ignore"]),
            merged=tuple((as_value(value), int(k)) for value, k in data.get("merged", ())),
            palette=tuple(int(v) for v in data["palette"]) if data.get("palette") else None,
        )

    def _true(self, value: Value) -> Value:
        """What 1 of a boolean mask means: 255 where that is a class and 1 is not."""
        return 255 if value == 1 and 1 not in self.values and 255 in self.values else value

    def _code(self, value: Value) -> int:
        """One number per raw value, so that grey colours and ints meet; _NO_CODE for what can't."""
        if self.colours:
            if isinstance(value, int):
                return value * 0x010101 if 0 <= value <= 255 else _NO_CODE
            return (value[0] << 16) | (value[1] << 8) | value[2]
        if isinstance(value, tuple):
            return value[0] if value[0] == value[1] == value[2] else _NO_CODE
        return value

    def _codes(self, raw: np.ndarray) -> np.ndarray:
        """(H, W) integer codes of a raw mask, in the sense of :meth:`_code`."""
        if raw.dtype == bool:
            raw = np.where(raw, np.uint8(self._code(self._true(1))), np.uint8(0))
        if self.colours:
            if raw.ndim == 3:
                return pack(raw)  # (H, W, 3) -> (H, W)
            return np.where((raw >= 0) & (raw <= 255), raw.astype(np.int64) * 0x010101, _NO_CODE)
        if raw.ndim == 2:
            return raw if raw.dtype.kind == "u" and raw.itemsize <= 2 else raw.astype(np.int64)
        grey = (raw[..., 0] == raw[..., 1]) & (raw[..., 1] == raw[..., 2])
        return np.where(grey, raw[..., 0], np.int64(_NO_CODE))  # (H, W, 3) -> (H, W)

    @cached_property
    def _index_of_code(self) -> dict[int, int]:
        return {self._code(value): k for value, k in self.class_of.items()}

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted codes (V,) int64 of the values that are spoken of, and their class indices (V,) int16."""
        codes = np.array([self._code(v) for v in self.class_of], np.int64)
        order = np.argsort(codes)
        return codes[order], np.array(list(self.class_of.values()), np.int16)[order]


def as_value(value: Any) -> Value:
    """Normalise a user's raw value: an integer, or three integers 0..255 as a tuple; else ConfigError."""
    try:
        if isinstance(value, (tuple, list, np.ndarray)):
            r, g, b = (int(v) for v in value)
            if all(0 <= v <= 255 for v in (r, g, b)):
                return r, g, b
        elif isinstance(value, (int, np.integer)):
            return int(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"A mask value is an integer or (r, g, b), got {value!r}.") from error
    raise ConfigError(f"A mask value is an integer or (r, g, b) with 0..255, got {value!r}.")
