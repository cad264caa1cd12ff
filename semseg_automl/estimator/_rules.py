"""What value each hyperparameter may have: a dict you can read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.core.placement import PLACEMENTS, is_placement
from semseg_automl.data.augment import OWN
from semseg_automl.data.augment import PRESETS as AUGMENTS
from semseg_automl.losses.registry import LOSSES
from semseg_automl.losses.weights import NO_WEIGHTS, SCHEMES
from semseg_automl.peft.registry import ADAPTERS, PLACES
from semseg_automl.peft.registry import CHOICES as ADAPTER_CHOICES
from semseg_automl.training.optim import OPTIMIZERS, SCHEDULES

CHOICES: dict[str, tuple[str, ...]] = {
    "adapter": tuple(ADAPTERS),
    **ADAPTER_CHOICES,
    "head": ("semantic", "mask_classification"),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "loss": ("auto", *LOSSES),
    "class_weights": (NO_WEIGHTS, *SCHEMES),
    "augment": tuple(AUGMENTS),
}


@dataclass(frozen=True)
class Rule:
    """A test of a value, and what it demands in words."""

    holds: Callable[[Any], bool]
    text: str


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _size(value: Any) -> bool:
    sides = value if isinstance(value, tuple) else (value, value)
    return len(sides) == 2 and all(_whole(s) and 32 <= s <= LONGEST for s in sides)


def _some_of(value: Any, known: tuple[str, ...]) -> bool:
    return isinstance(value, tuple) and bool(value) and set(value) <= set(known)


_MOST = 64
_FEW = Rule(lambda v: _whole(v) and v <= _MOST, f"a whole number from 1 to {_MOST}")
_LARGE = 4096
_MANY = Rule(lambda v: _whole(v) and v <= _LARGE, f"a whole number from 1 to {_LARGE}")
_COUNT = Rule(_whole, "a whole number of at least 1")
_POSITIVE = Rule(lambda v: _number(v) and v > 0, "a number above 0")
_NOT_NEGATIVE = Rule(lambda v: _number(v) and v >= 0, "a number of at least 0")
_FRACTION = Rule(lambda v: _number(v) and 0 <= v < 1, "a number from 0 to below 1")
LONGEST = 16_384
_SIDES = f"a long side or (height, width) of 32 to {LONGEST} pixels"

RULES: dict[str, Rule] = {
    "rank": _MANY,
    "alpha": _POSITIVE,
    "num_experts": _FEW,
    "scales": Rule(
        lambda v: v is None or (isinstance(v, tuple) and bool(v) and all(map(_FEW.holds, v))),
        f"None or whole numbers from 1 to {_MOST}",
    ),
    "top_k": _FEW,
    "rslora": Rule(lambda v: isinstance(v, bool), "True or False"),
    "targets": Rule(
        lambda v: v is None or _some_of(v, PLACES), f"None or some of {', '.join(map(repr, PLACES))}"
    ),
    "side_checkpoint": Rule(lambda v: v is None or isinstance(v, str), "None or the path of a file"),
    "placement": Rule(is_placement, PLACEMENTS),
    "num_queries": _MANY,
    "image_size": Rule(_size, _SIDES),
    "crop_size": Rule(lambda v: v is None or _size(v), f"None, {_SIDES}"),
    "small_share": _FRACTION,
    "class_crops": Rule(lambda v: _number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "small_scale": Rule(lambda v: _number(v) and 0 < v <= 1, "a number above 0, at most 1"),
    "gradient_checkpointing": Rule(lambda v: isinstance(v, bool), "True or False"),
    "learning_rate": _POSITIVE,
    "decoder_learning_rate": _POSITIVE,
    "lora_plus_ratio": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup": _FRACTION,
    "batch_size": _COUNT,
    "micro_batch_size": Rule(lambda v: v == "auto" or _whole(v), "'auto' or a whole number of at least 1"),
    "max_epochs": _COUNT,
    "balance_weight": Rule(
        lambda v: v == "auto" or (_number(v) and v >= 0), "'auto' or a number of at least 0"
    ),
    "balance_scale": _NOT_NEGATIVE,
    "gradient_clip": _NOT_NEGATIVE,
    "ema_decay": _FRACTION,
}


def check_hyperparameter(name: str, value: Any) -> None:
    """Raise ConfigError where a value is none of the known ones (with a guess) or breaks its rule."""
    if name == "augment" and callable(value):
        raise ConfigError("A function as 'augment' is no choice of a search: give it alone, without a list.")
    if name == "augment" and str(value).startswith(OWN):
        raise ConfigError(f"augment={value!r} names a function of another fit: give the function itself.")
    if name in CHOICES and value not in CHOICES[name]:
        raise unknown_name(f"value for hyperparameter {name!r}:", value, CHOICES[name])
    if name in RULES and not RULES[name].holds(value):
        raise ConfigError(f"Hyperparameter {name!r} must be {RULES[name].text}, got {value!r}.")
