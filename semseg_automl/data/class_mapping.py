"""``classes`` as a mapping: values named, merged, dropped, or thresholded by ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semseg_automl.core.errors import ConfigError
from semseg_automl.data.label_map import IGNORE, as_value
from semseg_automl.data.masks import LabelScan, Value

_LARGEST = 65536


@dataclass(frozen=True, kw_only=True)
class ClassMapping:
    """What a user's mapping says: ``classes``: name -> its keys in order; ``dropped``: keys of no class.

    A key is a raw value, or a ``range`` of raw values.
    """

    classes: Mapping[str, tuple[Value | range, ...]]
    dropped: tuple[Value | range, ...]

    @classmethod
    def of(cls, given: Mapping[Any, Any]) -> ClassMapping:
        """Check a mapping raw value, colour or range -> name, or None for pixels of no class.

        Raises
        ------
        ConfigError
            A key of another kind, a value that two keys hold, or no class at all.
        """
        classes: dict[str, list[Value | range]] = {}
        dropped: list[Value | range] = []
        for raw, name in given.items():
            key = _range(raw) if isinstance(raw, range) else as_value(raw)
            (dropped if name is None else classes.setdefault(str(name), [])).append(key)
        if not classes:
            raise ConfigError("classes names no class: give at least one raw value a name.")
        found = cls(classes={n: tuple(keys) for n, keys in classes.items()}, dropped=tuple(dropped))
        values = [v for keys in (*found.classes.values(), found.dropped) for v in _members(keys)]
        if len(set(values)) != len(values):
            twice = next(v for v in values if values.count(v) > 1)
            raise ConfigError(f"classes gives the mask value {twice!r} twice; ranges must not overlap.")
        return found

    def __contains__(self, value: object) -> bool:
        keys = [key for keys in (*self.classes.values(), self.dropped) for key in keys]
        return any(value in key if isinstance(key, range) else value == key for key in keys)

    def values(self, scan: LabelScan) -> dict[str, Value]:
        """The value that predictions of each class are written with.

        A class's first key; of a range, its value with the most pixels in the table (the lower of equals).
        """
        out: dict[str, Value] = {}
        for name, keys in self.classes.items():
            first = keys[0]
            if isinstance(first, range):
                out[name] = max(first, key=lambda v: (scan.pixels.get(v, 0), -v))
            else:
                out[name] = first
        return out

    def merged(self, own: Mapping[str, Value]) -> tuple[tuple[Value, int], ...]:
        """Every other value with its class index in the order of ``own``, or IGNORE."""
        out: list[tuple[Value, int]] = []
        for k, name in enumerate(own):
            out += [(v, k) for v in _members(self.classes.get(name, ())) if v != own[name]]
        return (*out, *((v, IGNORE) for v in _members(self.dropped)))


def _range(key: range) -> range:
    if key.step != 1 or not 0 <= key.start < key.stop <= _LARGEST:
        raise ConfigError(
            f"A range of mask values rises by 1 within 0..{_LARGEST}, such as range(128, 256), got {key!r}."
        )
    return key


def _members(keys: tuple[Value | range, ...]) -> list[Value]:
    return [v for key in keys for v in (key if isinstance(key, range) else (key,))]
