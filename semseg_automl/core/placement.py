"""Names of the blocks that an adapter is put into: "all", "global" (no windows) or "last_K"."""

from __future__ import annotations

import re

from semseg_automl.core.errors import ConfigError

PLACEMENTS = "'all', 'global' or 'last_K' (such as 'last_4')"
_FORM = re.compile(r"all|global|last_([1-9]\d*)")


def is_placement(name: object) -> bool:
    """Whether it is such a name."""
    return isinstance(name, str) and _FORM.fullmatch(name) is not None


def last_blocks(placement: str) -> int | None:
    """K of a placement "last_K"; None for "all" and "global"; ConfigError for any other."""
    match = _FORM.fullmatch(placement)
    if match is None:
        raise ConfigError(f"placement must be {PLACEMENTS}, not {placement!r}.")
    return int(match[1]) if match[1] else None
