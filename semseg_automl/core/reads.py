"""Which hyperparameters each method reads, and which a configuration leaves without effect."""

from __future__ import annotations

from collections.abc import Iterable

from semseg_automl.core.config import RunConfig

_PLACED = ("placement", "learning_rate")
_UPDATE = (*_PLACED, "rank", "alpha", "rslora", "qkv", "targets", "lora_plus_ratio")
_BALANCE = ("balance_weight", "balance_scale")
_EXPERTS = ("num_experts", "scales", "nonlinearity", "window_padding")

READS: dict[str, tuple[str, ...]] = {
    "decoder_only": (),
    "lora": _UPDATE,
    "conv_lora": (*_UPDATE, *_EXPERTS, "routing", "top_k", "gate_scope", *_BALANCE),
    "multi_scale_lora": (*_UPDATE, *_EXPERTS),
    "bitfit": (*_PLACED, "targets"),
    "ssf": (*_PLACED, "targets"),
    "adapter": (*_PLACED, "rank", "targets"),
    "parallel_adapter": (*_PLACED, "rank", "alpha", "targets"),
    "mona": (*_PLACED, "rank", "targets"),
    "vpt": (*_PLACED, "rank", "prompt_depth"),
    "sam_adapter": (*_PLACED, "rank"),
    "lst": (*_PLACED, "side_checkpoint"),
    "full": _PLACED,
}
"""Method (a key of ``peft.registry.ADAPTERS``) -> the names that change it. The rate of ``decoder_only`` is
``decoder_learning_rate``, which all methods have."""

OF_ADAPTERS = frozenset(name for names in READS.values() for name in names) - {"learning_rate"}
"""Names that may be without effect. Not the rate: what some encoders need anew (a timm ViT's neck, a
convolution for further channels) trains with it, whatever the method."""

_LEFT_OUT: dict[str, tuple[str, ...]] = {
    "dense": ("top_k",),
    "learned": (),
    "compat": ("nonlinearity", "gate_scope", "window_padding"),
}
"""Routing -> what of ``conv_lora`` it does not read."""


def reads(adapter: str, routing: str) -> set[str]:
    """The names that change a method with this routing."""
    found = set(READS[adapter])
    return found - set(_LEFT_OUT[routing]) if "routing" in found else found


def without_effect(names: Iterable[str], adapters: Iterable[str], routings: Iterable[str]) -> list[str]:
    """Those of ``names`` that no combination of these methods and routings reads, in their order."""
    pairs = [(adapter, routing) for adapter in adapters for routing in routings]
    read = set().union(*(reads(*pair) for pair in pairs))
    return [name for name in names if name in OF_ADAPTERS and name not in read]


DECIDING = ("adapter", "routing", "head", "small_share", "crop_size")
"""Names whose values decide whether others have an effect."""
_DEFAULTS = RunConfig().flat()


def idle(config: RunConfig) -> set[str]:
    """The names that change nothing about this configuration, whose sizes have been planned."""
    names = OF_ADAPTERS - reads(config.adapter.adapter, config.adapter.routing)
    unused = {
        "num_queries": config.model.head != "mask_classification",
        "small_scale": config.optim.small_share == 0,
        "class_crops": config.optim.crop_size is None,
    }
    return {*names, *(name for name, is_idle in unused.items() if is_idle)}


def settled(config: RunConfig) -> RunConfig:
    """The same with what has no effect at its default: equal for all that train the same model."""
    return config.replace(**{name: _DEFAULTS[name] for name in idle(config)})
