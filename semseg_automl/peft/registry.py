"""The methods that adapt an encoder, in one dict, and the rules for their hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.peft.base import QKV, AdapterLayer, Site
from semseg_automl.peft.conv_lora import ConvLoRALayer
from semseg_automl.peft.lora import LoRALayer

Build = Callable[[nn.Linear, Site, AdapterConfig, torch.Generator], AdapterLayer]


@dataclass(frozen=True, kw_only=True)
class AdapterMethod:
    """One method: how to build its layer (None: the encoder stays as it is) and at which kinds of site."""

    build: Build | None
    kinds: tuple[str, ...] = ("qkv",)
    uses_experts: bool = False
    source: str = ""


ADAPTERS: dict[str, AdapterMethod] = {
    "decoder_only": AdapterMethod(build=None, kinds=(), source="the paper's first baseline: frozen encoder"),
    "lora": AdapterMethod(build=LoRALayer, source="Hu et al., ICLR 2022"),
    "conv_lora": AdapterMethod(build=ConvLoRALayer, uses_experts=True, source="Zhong et al., ICLR 2024"),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "routing": ("learned", "dense", "compat"),
    "gate_scope": ("image", "window"),
    "window_padding": ("image", "window"),
    "nonlinearity": ("none", "gelu"),
    "qkv": ("fused", "separate"),
}


def resolve_method(config: AdapterConfig) -> AdapterMethod:
    """Return the method that ``config`` names after checking every hyperparameter of the adapter.

    Raises
    ------
    ConfigError
        For an unknown name or a value out of its range.
    """
    if config.adapter not in ADAPTERS:
        raise unknown_name("adapter", config.adapter, ADAPTERS)
    for field, choices in CHOICES.items():
        if getattr(config, field) not in choices:
            raise unknown_name(field, getattr(config, field), choices)
    if config.rank < 1 or not config.alpha > 0:
        raise ConfigError(f"rank must be 1 or more and alpha positive, not {config.rank}, {config.alpha}.")
    for target in config.targets:
        if target not in QKV:
            raise unknown_name("target", target, QKV)
    if not config.targets or len(set(config.targets)) != len(config.targets):
        raise ConfigError(f"targets must be some of q, k, v, each once, not {config.targets}.")
    method = ADAPTERS[config.adapter]
    if method.uses_experts:
        _check_experts(config)
    return method


def _check_experts(config: AdapterConfig) -> None:
    if config.num_experts < 1:
        raise ConfigError(f"num_experts must be at least 1, not {config.num_experts}.")
    if not 1 <= config.top_k <= config.num_experts:
        raise ConfigError(f"top_k must lie in 1..num_experts = {config.num_experts}, not {config.top_k}.")
    scales = config.scales
    if scales is not None and not _valid_scales(scales, config.num_experts):
        raise ConfigError(f"scales must be num_experts = {config.num_experts} integers from 1, not {scales}.")
    if config.routing == "compat" and config.qkv != "fused":
        raise ConfigError(
            "routing='compat' is the released code, which adapts q, k, v together: use qkv='fused'."
        )


def _valid_scales(scales: tuple[int, ...], num_experts: int) -> bool:
    return len(scales) == num_experts and all(isinstance(s, int) and s >= 1 for s in scales)
