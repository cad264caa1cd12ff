"""Hyperparameters that were given and change nothing: said, or refused where trials would be the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.core.reads import READS, without_effect
from semseg_automl.search.space import Categorical, Space

_LOG = get_logger("estimator")


def check_effects(config: RunConfig, given: Mapping[str, Any], spaces: Mapping[str, Space]) -> None:
    """Look at what the user gave; ``config`` holds the values that are not searched.

    Raises
    ------
    ConfigError
        A search over values that no trial reads, or ``top_k`` where all experts are used.
    """
    adapters, routings = (_values(name, config, spaces) for name in ("adapter", "routing"))
    idle = without_effect((*given, *spaces), adapters, routings)
    gated = any("routing" in READS[adapter] for adapter in adapters)
    if "top_k" in idle and gated:
        raise ConfigError(
            "top_k has no effect with routing='dense', which uses all experts: add routing='learned', or "
            "leave top_k out."
        )
    what = f"adapter={adapters[0]!r}" if len(adapters) == 1 else f"the adapters {', '.join(adapters)}"
    if gated and "compat" in routings:
        what += " and routing='compat'"
    searched = [name for name in idle if name in spaces]
    if searched:
        raise ConfigError(
            f"A search over {', '.join(searched)} would train the same model again and again: it has no "
            f"effect with {what}. Leave it out."
        )
    if idle:
        _LOG.warning("Without effect with %s: %s.", what, ", ".join(idle))


def _values(name: str, config: RunConfig, spaces: Mapping[str, Space]) -> tuple[str, ...]:
    """What a name may be in a trial."""
    space = spaces.get(name)
    return tuple(space.choices) if isinstance(space, Categorical) else (config.flat()[name],)
