"""Search spaces for hyperparameters, free of Optuna so that users can import them cheaply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semseg_automl.core.config import AdapterConfig, group_of
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.reads import reads

__all__ = ["Categorical", "Int", "Real", "Space"]


def plain(value: Any) -> Any:
    """A value of Python's own types; lists, and what is in them, become tuples."""
    if _is_numpys(value):
        python = value.tolist()
        return float(python) if _is_numpys(python) else plain(python)  # a long double stays one
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def _is_numpys(value: Any) -> bool:
    """Whether it is a number or an array of NumPy, which is not imported for that."""
    return type(value).__module__ == "numpy" and hasattr(value, "tolist")


@dataclass(frozen=True)
class Int:
    """Whole numbers from ``lower`` to ``upper``, both included; ``log=True`` searches the logarithm."""

    lower: int
    upper: int
    log: bool = False

    def __post_init__(self) -> None:
        for end in ("lower", "upper"):
            object.__setattr__(self, end, plain(getattr(self, end)))
        _check_range(self.lower, self.upper, self.log)


@dataclass(frozen=True)
class Real:
    """Real numbers from ``lower`` to ``upper``; ``log=True`` searches the logarithm."""

    lower: float
    upper: float
    log: bool = False

    def __post_init__(self) -> None:
        for end in ("lower", "upper"):
            object.__setattr__(self, end, plain(getattr(self, end)))
        _check_range(self.lower, self.upper, self.log)


@dataclass(frozen=True, init=False)
class Categorical:
    """One of several values: ``Categorical("lora", "conv_lora")``. A list among them is taken as a tuple."""

    choices: tuple[Any, ...]

    def __init__(self, *choices: Any) -> None:
        if not choices:
            raise ConfigError("space.Categorical needs at least one choice.")
        object.__setattr__(self, "choices", tuple(map(plain, choices)))


Space = Int | Real | Categorical


def space_to_json(space: Space) -> dict[str, Any]:
    """JSON-ready form of a space."""
    if isinstance(space, Categorical):
        return {"kind": "Categorical", "choices": list(space.choices)}
    return {"kind": type(space).__name__, **vars(space)}


def space_from_json(values: Mapping[str, Any]) -> Space:
    """Inverse of :func:`space_to_json`; what JSON made a list of is a tuple again."""
    if values["kind"] == "Categorical":
        return Categorical(*(tuple(c) if isinstance(c, list) else c for c in values["choices"]))
    ends = values["lower"], values["upper"]
    return Int(*ends, log=values["log"]) if values["kind"] == "Int" else Real(*ends, log=values["log"])


def _check_range(lower: float, upper: float, log: bool) -> None:
    if not lower < upper:
        raise ConfigError(f"A range needs lower < upper, got {lower} and {upper}.")
    if log and lower <= 0:
        raise ConfigError(f"log=True needs lower > 0, got {lower}.")


DEFAULT_SPACE: dict[str, Space] = {
    "rank": Int(2, 32, log=True),
    "num_experts": Int(2, 8),
    "learning_rate": Real(1e-4, 1e-2, log=True),
}
"""What is searched unless the user says otherwise; entries that an adapter lacks are left out."""

_LEARNING_RATES: dict[str, Real] = {
    "full": Real(1e-5, 1e-3, log=True),
    "bitfit": Real(3e-4, 3e-2, log=True),
    "ssf": Real(3e-4, 3e-2, log=True),
}
"""Ranges of ``learning_rate`` that differ from the default one: pretrained weights move in small steps, a
vector for each layer in large ones. A convention, not measured here. Each holds the default rate."""


def default_space(adapter: AdapterConfig) -> dict[str, Space]:
    """The default search space of an adapter; decoder_only searches the decoder's rate.

    ``learning_rate`` has the method's own range. The number of experts is not searched where
    ``scales`` or a ``top_k`` above 2, if it is read, ties it down.
    """
    read = reads(adapter.adapter, adapter.routing)
    left_out = set(DEFAULT_SPACE) - read
    if adapter.scales is not None or ("top_k" in read and adapter.top_k > 2):
        left_out.add("num_experts")
    space = {name: entry for name, entry in DEFAULT_SPACE.items() if name not in left_out}
    if "learning_rate" in space and adapter.adapter in _LEARNING_RATES:
        space["learning_rate"] = _LEARNING_RATES[adapter.adapter]
    return space or {"decoder_learning_rate": Real(1e-4, 3e-3, log=True)}


def split_hyperparameters(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Space]]:
    """Split the user's ``hyperparameters`` into fixed values and search spaces.

    A list means choices; for scales and targets, whose value is itself a sequence, only a list of
    sequences (or of them and None) does. NumPy's numbers and arrays are taken as Python's. Unknown names
    raise ConfigError.
    """
    fixed: dict[str, Any] = {}
    spaces: dict[str, Space] = {}
    for name, given in values.items():
        group_of(name)
        value = given.tolist() if _is_numpys(given) else given
        if isinstance(value, Int | Real | Categorical):
            spaces[name] = value
        elif isinstance(value, list) and _means_choices(name, value):
            spaces[name] = Categorical(*value)
        else:
            fixed[name] = plain(value)
    return fixed, spaces


def _means_choices(name: str, value: list[Any]) -> bool:
    if name in {"scales", "targets"}:
        return bool(value) and all(v is None or isinstance(v, list | tuple) for v in value)
    return True
