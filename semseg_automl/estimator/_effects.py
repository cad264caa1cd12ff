"""Hyperparameters that were given and change nothing: said, or refused where it can't have been meant."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from semseg_automl.core.config import AdapterConfig, RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import get_logger
from semseg_automl.core.reads import READS, without_effect
from semseg_automl.search.space import Categorical, Space

_LOG = get_logger("estimator")


def check_effects(
    config: RunConfig, decided: Container[str], given: Mapping[str, Any], spaces: Mapping[str, Space]
) -> None:
    """Look at what the user gave.

    ``config`` holds the values that are not searched; ``decided`` names those that the planner leaves as they
    are, by the user or a preset.

    Raises
    ------
    ConfigError
        A search over values that no trial reads, or experts to keep (``top_k``) where all are used.
    """
    _check_adapters(config, given, spaces)
    for name, why in _unread(config, decided, spaces).items():
        if name in spaces:
            raise ConfigError(_AGAIN_AND_AGAIN.format(names=name, what=why))
        if given.get(name) is not None:
            _LOG.warning("Without effect with %s: %s.", why, name)


_AGAIN_AND_AGAIN = (
    "A search over {names} would train the same model again and again: it has no effect with {what}. Leave "
    "it out."
)


def _unread(config: RunConfig, decided: Container[str], spaces: Mapping[str, Space]) -> dict[str, str]:
    """Names, none of an adapter, that no trial reads -> because of what."""
    found = {}
    if "mask_classification" not in _values("head", config, spaces):
        found["num_queries"] = "head='semantic'"
    if "small_share" in decided and "small_share" not in spaces and not config.optim.small_share:
        found["small_scale"] = "small_share=0"
    sized = "image_size" in decided or "image_size" in spaces
    if config.optim.crop_size is None and "crop_size" not in spaces and ("crop_size" in decided or sized):
        found["class_crops"] = "whole pictures (no crop_size)"
    return found


def _check_adapters(config: RunConfig, given: Mapping[str, Any], spaces: Mapping[str, Space]) -> None:
    """What adapters and routings may be in a trial, and whether any of them reads what was given."""
    adapters, routings = (_values(name, config, spaces) for name in ("adapter", "routing"))
    named = [name for name, value in given.items() if value is not None]
    idle = without_effect((*named, *spaces), adapters, routings)
    gated = any("routing" in READS[adapter] for adapter in adapters)
    what = f"adapter={adapters[0]!r}" if len(adapters) == 1 else f"the adapters {', '.join(adapters)}"
    if gated and len(routings) == 1:
        what += f" and routing={routings[0]!r}"
    if "top_k" in idle and gated and given.get("top_k") != AdapterConfig.top_k:
        raise ConfigError(
            f"top_k has no effect with {what}, which uses all experts: add routing='learned', or leave "
            "top_k out."
        )
    searched = [name for name in idle if name in spaces]
    if searched:
        raise ConfigError(_AGAIN_AND_AGAIN.format(names=", ".join(searched), what=what))
    if idle:
        _LOG.warning("Without effect with %s: %s.", what, ", ".join(idle))


def _values(name: str, config: RunConfig, spaces: Mapping[str, Space]) -> tuple[str, ...]:
    """What a name may be in a trial."""
    space = spaces.get(name)
    return tuple(space.choices) if isinstance(space, Categorical) else (config.flat()[name],)
