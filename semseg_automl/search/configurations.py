"""The configurations of a search: inside of its spaces, told apart by what they read, counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.reads import DECIDING, idle, settled
from semseg_automl.search.space import Categorical, Int, Space

_ENDLESS = 1024
"""Spaces with more combinations are taken for endless: no search tries them all."""


def inside(value: Any, space: Space) -> bool:
    """Whether a space holds a value."""
    if isinstance(space, Categorical):
        return value in space.choices
    whole = isinstance(value, int) or not isinstance(space, Int)
    return _is_number(value) and whole and space.lower <= value <= space.upper


def nearest(value: Any, space: Space) -> Any:
    """The value of a space that is nearest to ``value``; of choices that have no distance the first."""
    if inside(value, space):
        return value
    if not isinstance(space, Categorical):
        within = min(max(value, space.lower), space.upper) if _is_number(value) else space.lower
        return round(within) if isinstance(space, Int) else within
    numbers = [choice for choice in space.choices if _is_number(choice)]
    if numbers and _is_number(value):
        return min(numbers, key=lambda number: abs(number - value))
    return space.choices[0]


def moved_inside(config: RunConfig, spaces: Mapping[str, Space]) -> RunConfig:
    """The configuration of the spaces that is nearest to ``config``."""
    flat = config.flat()
    return completed(config.replace(**{name: nearest(flat[name], s) for name, s in spaces.items()}), spaces)


def librarys_own(config: RunConfig, spaces: Mapping[str, Space]) -> RunConfig:
    """``config`` with the library's own values of what is searched, as far as they lie in the spaces."""
    known_good = RunConfig().flat()
    return moved_inside(config.replace(**{name: known_good[name] for name in spaces}), spaces)


def completed(config: RunConfig, spaces: Mapping[str, Space]) -> RunConfig:
    """With as many experts as there are scales, where those alone are searched."""
    scales = config.adapter.scales
    if "scales" not in spaces or "num_experts" in spaces or scales is None:
        return config
    return config.replace(num_experts=len(scales))


def drawn(config: RunConfig, spaces: Mapping[str, Space], suggest: Callable[[str, Space], Any]) -> RunConfig:
    """A configuration of the spaces; ``suggest(name, space)`` is asked where it has an effect."""
    for name in sorted(spaces, key=lambda n: DECIDING.index(n) if n in DECIDING else len(DECIDING)):
        if name not in idle(config):
            config = config.replace(**{name: suggest(name, spaces[name])})
    config = completed(config, spaces)
    return config if spaces.keys().isdisjoint(DECIDING) else settled(config)


def every(config: RunConfig, spaces: Mapping[str, Space]) -> tuple[RunConfig, ...] | None:
    """All configurations that train different models, ``settled``; None where there is no end of them."""
    return _every(config, tuple(spaces.items()))


def number_of(config: RunConfig, spaces: Mapping[str, Space]) -> float:
    """How many different models the spaces hold; inf where there is no end of them."""
    found = every(config, spaces)
    return math.inf if found is None else len(found)


@lru_cache(maxsize=16)
def _every(config: RunConfig, items: tuple[tuple[str, Space], ...]) -> tuple[RunConfig, ...] | None:
    spaces = dict(items)
    if spaces.keys().isdisjoint(DECIDING):  # what is idle is so in every trial
        spaces = {name: space for name, space in items if name not in idle(config)}
    if math.isinf(_combinations(spaces)):
        return None
    found: dict[RunConfig, None] = {}  # a set that keeps the order
    for values in itertools.product(*map(_values, spaces.values())):
        new = completed(config.replace(**dict(zip(spaces, values, strict=True))), dict(items))
        found.setdefault(settled(new))
    return tuple(found)


def _combinations(spaces: Mapping[str, Space]) -> float:
    sizes = (len(_values(s)) if not isinstance(s, Int) else s.upper - s.lower + 1 for s in spaces.values())
    number = math.prod(size or math.inf for size in sizes)
    return number if number <= _ENDLESS else math.inf


def _values(space: Space) -> tuple[Any, ...] | range:
    """All values; of real numbers none."""
    if isinstance(space, Categorical):
        return space.choices
    return range(space.lower, space.upper + 1) if isinstance(space, Int) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
