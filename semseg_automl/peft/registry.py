"""The methods that adapt an encoder, in one dict, and the rules for their hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from semseg_automl.core.config import AdapterConfig
from semseg_automl.core.errors import ConfigError, unknown_name
from semseg_automl.peft.adapter import SerialAdapterLayer
from semseg_automl.peft.base import QKV, AdapterLayer, Site
from semseg_automl.peft.bitfit import BitFitLayer
from semseg_automl.peft.conv_lora import ConvLoRALayer
from semseg_automl.peft.lora import LoRALayer
from semseg_automl.peft.mona import MonaLayer
from semseg_automl.peft.multi_scale_lora import MultiScaleLoRALayer
from semseg_automl.peft.parallel_adapter import build_parallel
from semseg_automl.peft.ssf import SSFLayer

Build = Callable[[nn.Linear, Site, AdapterConfig, torch.Generator], AdapterLayer]


@dataclass(frozen=True, kw_only=True)
class AdapterMethod:
    """One method: how to build its layer (None: it has none) and at which roles of site (:attr:`Site.role`).

    ``whole``: the encoder's own parameters are trained instead (:mod:`semseg_automl.peft.full`).
    """

    build: Build | None
    roles: tuple[str, ...] = ("qkv",)
    uses_experts: bool = False
    whole: bool = False
    source: str = ""


EVERY_LINEAR = ("qkv", "proj", "mlp_in", "mlp_out")
OUTPUTS = ("proj", "mlp_out")


ADAPTERS: dict[str, AdapterMethod] = {
    "decoder_only": AdapterMethod(build=None, roles=(), source="the paper's first baseline: frozen encoder"),
    "lora": AdapterMethod(build=LoRALayer, source="Hu et al., ICLR 2022"),
    "conv_lora": AdapterMethod(build=ConvLoRALayer, uses_experts=True, source="Zhong et al., ICLR 2024"),
    "multi_scale_lora": AdapterMethod(
        build=MultiScaleLoRALayer, uses_experts=True, source="Zhong et al., ICLR 2024, without the gate"
    ),
    "bitfit": AdapterMethod(build=BitFitLayer, roles=EVERY_LINEAR, source="Ben Zaken et al., ACL 2022"),
    "ssf": AdapterMethod(build=SSFLayer, roles=EVERY_LINEAR, source="Lian et al., NeurIPS 2022"),
    "adapter": AdapterMethod(build=SerialAdapterLayer, roles=OUTPUTS, source="Houlsby et al., ICML 2019"),
    "parallel_adapter": AdapterMethod(
        build=build_parallel, roles=("mlp_in", "mlp_out"), source="He et al., ICLR 2022"
    ),
    "mona": AdapterMethod(build=MonaLayer, roles=OUTPUTS, source="Yin et al., CVPR 2025"),
    "full": AdapterMethod(build=None, roles=EVERY_LINEAR, whole=True, source="full fine-tuning"),
}

REFUSED: dict[str, str] = {
    "vpt": "its prompts are further tokens of every attention, and the encoders' attention with its windows "
    "and relative positions takes the tokens of the picture's grid only; and they change the outputs before "
    "the first step, which no adapter here does",
    "sam_adapter": "its prompts are made from the picture's high frequencies and added between the blocks, "
    "and an adapter here sees one linear layer's input and not the picture",
    "lst": "its side network reads the output of every block and replaces the encoder's, and an adapter here "
    "stands where a linear layer stood",
}
"""Methods of the paper that are known and not there, with the reason."""

CHOICES: dict[str, tuple[str, ...]] = {
    "routing": ("learned", "dense", "compat"),
    "gate_scope": ("image", "window"),
    "window_padding": ("image", "window"),
    "nonlinearity": ("none", "gelu"),
    "qkv": ("fused", "separate"),
}


def refuse(name: object) -> None:
    """Raise ConfigError with the reason for a method of the paper that is not there; else do nothing."""
    if isinstance(name, str) and name in REFUSED:
        raise ConfigError(
            f"adapter={name!r} is not available: {REFUSED[name]}. Use one of {', '.join(ADAPTERS)}."
        )


def resolve_method(config: AdapterConfig) -> AdapterMethod:
    """Return the method that ``config`` names after checking every hyperparameter of the adapter.

    Raises
    ------
    ConfigError
        For an unknown name or a value out of its range.
    """
    refuse(config.adapter)
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
